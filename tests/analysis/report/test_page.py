"""The report page of made-up runs: what is in it, its size, and that it is inert."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from made_runs import search, with_board
from test_leaderboard import repeat, trial

from analysis.board import cells, records
from analysis.charts.palette import SHIPPED
from analysis.report.page import page

VOID = {"meta", "input", "br"}
EVIL = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\" onload='alert(2)' x=\"",
    "a\x00b\u202ec",
    r"$\frac{a}{b$",
    "n" * 300,
]


class Parsed(HTMLParser):
    """The elements of a page, as a browser that follows the rules sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    variants = ["sgd", "sam", "asam", "gsam", "friendly_sam"]
    return search(tmp_path_factory.mktemp("small"), variants, 160, 20)


@pytest.fixture(scope="module")
def html(small: dict[str, pd.DataFrame]) -> str:
    return page(small, {"r/sam": "samtune: 1\ntrainable: sam\n"})


def test_the_same_tables_give_the_same_bytes(small: dict[str, pd.DataFrame], html: str) -> None:
    shuffled = {name: table.copy() for name, table in small.items()}
    assert page(shuffled, {"r/sam": "samtune: 1\ntrainable: sam\n"}) == html


@pytest.mark.parametrize("variants", [["sgd", "sam", "asam", "gsam", "wsam"], [*SHIPPED]])
def test_a_page_of_ten_thousand_trials_is_small(tmp_path: Path, variants: list[str]) -> None:
    made = page(search(tmp_path, variants, 10_000, 20), {"r/sam": "samtune: 1\n" * 60})
    assert len(made.encode()) < 1_500_000
    assert made.count("<figure") > len(variants)


def test_it_fetches_nothing_and_its_policy_knows_its_script_and_style(html: str) -> None:
    parsed = Parsed(html)
    assert not re.search(r"https?://|@import|url\(", html.replace("http://www.w3.org", ""))
    for tag, attributes in parsed.elements:
        assert not {"src", "srcset", "action", "style"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        if "href" in attributes:
            assert (attributes["href"] or "").startswith("#"), tag
    ((style,), scripts) = (
        re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", html, re.S) for tag in ("style", "script")
    )
    assert len(scripts) == 2
    (policy,) = (
        attributes["content"]
        for _, attributes in parsed.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None and policy.startswith("default-src 'none';")
    for kind, source in (("style", style), ("script", scripts[1])):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "refresh" not in html


def test_ids_are_unique_and_what_takes_the_focus_has_a_name(html: str) -> None:
    parsed = Parsed(html)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in parsed.elements:
        if "tabindex" in attributes and tag != "pre":
            assert attributes.get("aria-label"), tag
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
        if (attributes.get("href") or "").startswith("#"):
            assert (attributes["href"] or "")[1:] in ids


def test_the_board_is_that_of_the_command(small: dict[str, pd.DataFrame], html: str) -> None:
    (body,) = re.findall(r'aria-label="Leaderboard".*?<tbody>(.*?)</tbody>', html, re.S)
    rows = [
        [
            unescape(re.sub(r"<[^>]+>", "", cell))
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        ]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.S)
    ]
    board = small["leaderboard"]
    for row, cell, record in zip(rows, cells(board), records(board), strict=True):
        assert sorted(row[:-1]) == sorted(cell)
        assert row[0] == record["space"] and row[1] == str(record["rank"])
        assert row[2] == f"{100 * record['test_acc_mean']:.2f}"


def test_the_count_of_drawn_trials_is_true(tmp_path: Path) -> None:
    made = page(search(tmp_path, ["sgd", "sam"], 1500, 20), {})
    figures = re.findall(r'aria-label="Learning curves of (\w+), .*?</figure>', made, re.S)
    assert sorted(figures) == ["sam", "sgd"]
    for figure in re.findall(r"<figure[^>]*>(?:(?!</figure>).)*</figure>", made, re.S):
        if found := re.search(r"(\d+) of (\d+) (?:trials )?drawn", figure):
            drawn, whole = map(int, found.groups())
            assert len(set(re.findall(r'data-k="(\d+)"', figure))) == drawn < whole
    told = json.loads(re.findall(r'id="told">(.*?)</script>', made)[0])
    assert set(re.findall(r'data-k="(\d+)"', made)) == set(told)
    assert sum("the winner" in words[1] for words in told.values()) == 2


def test_hostile_names_add_nothing(tmp_path: Path) -> None:
    plain = search(tmp_path, ["sgd", "sam", "asam", "gsam", "wsam", "esam"], 60, 20)
    names = dict(zip(["sgd", "sam", "asam", "gsam", "wsam", "esam"], EVIL, strict=True))
    evil = {name: table.copy() for name, table in plain.items()}
    for name in ("trials", "repeats", "leaderboard"):
        for column in ("space", "variant"):
            evil[name][column] = evil[name][column].map(names)
    for side in "ab":
        for column in (f"space_{side}", f"variant_{side}"):
            evil["pairs"][column] = evil["pairs"][column].map(names)
    evil["trials"]["knobs_searched"] = json.dumps(EVIL)
    for word in EVIL:
        evil["trials"][f"knob.{word}"] = word
    evil["trials"]["state"] = ["error", "completed"] * 30
    evil["trials"]["state_reason"] = [*EVIL] * 10
    for name in ("trials", "repeats", "leaderboard", "curves"):
        evil[name]["run"] = EVIL[0]
    found = Parsed(page(evil, {word: word for word in EVIL}))
    known = {tag for tag, _ in Parsed(page(plain, {"a": "b"})).elements} | {"p", "option"}
    assert {tag for tag, _ in found.elements} <= known
    assert [tag for tag, _ in found.elements].count("script") == 2
    assert not any(
        name.startswith("on") or name == "style"
        for _, attributes in found.elements
        for name in attributes
    )


def odd(path: Path, what: str) -> dict[str, pd.DataFrame]:
    """Return the tables of a run that lacks something."""
    one = {"metric": "val_acc", "mode": "max"}
    curves = [(f"k{k}", float(at), 0.5 + 0.02 * at, None) for k in range(3) for at in (1, 2, 20)]
    match what:
        case "nothing":
            return with_board(path, [], [], [])
        case "one trial":
            return with_board(path, [trial(0, "completed", 0.9, **one)], [], curves[:3])
        case "all failed":
            failed = [
                trial(k, "error", None, state_reason=f"CUDA out of memory {k}", **one)
                for k in range(3)
            ]
            return with_board(path, failed, [], [])
        case "running":
            running = trial(0, "running", None, ended_at=None, **one)
            return with_board(path, [running], [], [])
        case "perfect":
            perfect = [trial(k, "completed", 1.0, **one) for k in range(3)]
            repeats = [repeat(k, 1.0, **one) for k in range(3)]
            return with_board(path, perfect, repeats, [("k1", 1.0, 1.0, 0)])
        case "one value of a knob":
            same = [
                trial(k, "completed", 0.9 + k / 100, **one) | {"knob.lr": 0.1} for k in range(3)
            ]
            return with_board(path, same, [], curves)
        case "other knobs":
            two = [trial(k, "completed", 0.9 + k / 100, **one) for k in range(4)]
            for row in two[2:]:
                row |= {"space": "mine", "variant": "mine", "knobs_searched": '["width", "act"]'}
                row |= {"knob.width": 3.0, "knob.lr": None}
            return with_board(path, two, [], curves)
    raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    [
        *("nothing", "one trial", "all failed", "running", "perfect"),
        *("one value of a knob", "other knobs"),
    ],
)
def test_an_odd_run_has_a_page(tmp_path: Path, what: str) -> None:
    made = page(odd(tmp_path, what), {})
    Parsed(made)
    assert not re.search(r"[ \"M]nan[ \"L]|\binf\b", made)
    if what == "all failed":
        assert "3 of 3 trials have failed, of 1 causes" in made


def test_several_questions_have_a_part_each(tmp_path: Path) -> None:
    first = search(tmp_path, ["sgd", "sam"], 20, 20)
    (tmp_path / "two").mkdir()
    other = search(tmp_path / "two", ["sgd", "sam"], 20, 20, budget_max=40.0, run="s")
    both = {name: pd.concat([first[name], other[name]]) for name in first}
    made = page(both, {})
    assert made.count('<p class="verdict">') == 2
    assert "40 see per trial" in made
    Parsed(made)
