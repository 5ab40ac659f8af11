"""The report page in a real browser: nothing fetched, nothing cut, and all of it by keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import PROGRAM, Chromium
from made_runs import search

from analysis.report.page import page

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium here; `apt install chromium` brings one"
)
SHOWN = "e => e.getClientRects().length > 0"
MARKS = f"[...document.querySelectorAll('main .v10')].filter({SHOWN}).length"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    started = Chromium(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    tables = search(folder, ["sgd", "sam", "asam"], 60, 20)
    path = folder / "report.html"
    path.write_text(page(tables, {"r/sam": "samtune: 1\n"}), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_fetched_logged_or_cut(browser: Chromium, made: Path, width: int) -> None:
    browser.open(made, width)
    browser.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") == width
    # Text of a chart stays inside its panel and large enough to read.
    cut = browser.run(
        "[...document.querySelectorAll('svg.panel text')].filter(each => {"
        "const own = each.getBoundingClientRect(),"
        "all = each.closest('svg.panel').getBoundingClientRect();"
        "return own.width > 0 && (own.left < all.left - 1 || own.right > all.right + 1 "
        "|| own.height < 10); }).map(each => each.textContent)"
    )
    assert cut == []
    assert browser.log == []


def test_a_box_hides_a_variant_and_the_address_keeps_it(browser: Chromium, made: Path) -> None:
    browser.open(made)
    assert browser.run(MARKS) > 10
    browser.run("document.getElementById('show-v10').click()")
    assert browser.run(MARKS) == 0
    assert browser.run("location.hash") == "#show-v10"
    browser.run("document.getElementById('show-v10').click()")
    assert browser.run(MARKS) > 10


def test_the_theme_is_chosen(browser: Chromium, made: Path) -> None:
    browser.open(made)
    colour = "getComputedStyle(document.body).backgroundColor"
    assert browser.run(colour) == "rgb(255, 255, 255)"
    browser.run("document.getElementById('theme-dark').click()")
    assert browser.run(colour) == "rgb(18, 21, 26)"
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.ask("Emulation.setEmulatedMedia", features=dark)
    browser.open(made)
    assert browser.run(colour) == "rgb(18, 21, 26)"
    browser.run("document.getElementById('theme-light').click()")
    assert browser.run(colour) == "rgb(255, 255, 255)"
    browser.ask("Emulation.setEmulatedMedia", features=[])


def test_the_keyboard_reaches_and_walks_the_charts(browser: Chromium, made: Path) -> None:
    browser.open(made)
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "skip"
    browser.run("document.querySelector('[aria-label^=\"Learning\"]').focus()")
    for _ in range(2):
        browser.press("ArrowRight")
    told = browser.run("document.querySelector('.tip').textContent")
    assert re.match(r"\w+, trial \d+\n[\d.]+ %, .*\nlr=", told), told
    assert browser.run("document.getElementById('status').textContent") == told
    hot = browser.run("[...document.querySelectorAll('.hot')].map(e => e.dataset.k)")
    assert len(hot) > 1 and len(set(hot)) == 1
    browser.press("Escape")
    assert browser.run("document.querySelector('.tip').hidden") is True
    assert browser.log == []


def test_a_heading_sorts_with_empty_cells_last(browser: Chromium, made: Path) -> None:
    browser.open(made)
    rows = "[...document.querySelectorAll('[aria-label=Leaderboard] tbody tr')]"
    column = f"{rows}.map(row => row.cells[3].textContent)"
    button = "document.querySelectorAll('[aria-label=Leaderboard] th button')[3]"
    assert "-" in browser.run(column)
    for order in (True, False):
        browser.run(f"{button}.click()")
        found = browser.run(column)
        assert found[-1] == "-"
        numbers = [float(cell.split()[0]) for cell in found[:-1]]
        assert numbers == sorted(numbers, reverse=order)
    assert "sorted by against sgd" in browser.run("document.getElementById('status').textContent")


def test_it_works_without_its_script(browser: Chromium, made: Path) -> None:
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(made)
        assert browser.run("document.documentElement.className") == ""
        before = browser.run(MARKS)
        browser.run("document.getElementById('show-v10').click()")
        assert before > 10 and browser.run(MARKS) == 0
    finally:
        browser.ask("Emulation.setScriptExecutionDisabled", value=False)


def test_a_printed_page_is_light_and_cuts_nothing(
    browser: Chromium, made: Path, tmp_path: Path
) -> None:
    browser.open(made)
    browser.run("document.getElementById('theme-dark').click()")
    browser.ask("Emulation.setEmulatedMedia", media="print")
    browser.size(703, 900)  # A4 less its margins.
    try:
        wide = browser.run(
            "[...document.querySelectorAll('main *')].filter(each => "
            "each.getBoundingClientRect().right > innerWidth + 1).length"
        )
        assert wide == 0
        assert browser.run("getComputedStyle(document.body).backgroundColor") in {
            "rgb(255, 255, 255)"
        }
        hidden = browser.run("document.querySelector('.controls').getClientRects().length")
        assert hidden == 0
    finally:
        browser.ask("Emulation.setEmulatedMedia", media="")
    browser.printed(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
