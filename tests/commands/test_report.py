"""`samtune report` on runs made without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_record import CONFIG, STUDY, fill
from typed import typed

import samtune
from samtune.api import report
from samtune.commands import report as command
from samtune.record.record import Record


@pytest.fixture
def a_run(in_folder: None) -> str:
    with Record.create(Path("runs"), "mine", [STUDY], {}) as record, record.lock():
        fill(record)
    return "mine"


def test_a_page_is_written_into_the_run_or_a_file(
    a_run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path("runs/mine/report.html").absolute()
    code, out, err = typed(capsys, "report", a_run)
    assert (code, out, err) == (0, f"{own}\n", "")
    code, out, _ = typed(capsys, "report", a_run, "-o", "other.html")
    assert (code, out) == (0, "other.html\n")
    text = Path("other.html").read_text()
    assert text == own.read_text() and "6 of 6 trained to the end" in text
    assert "refresh" not in text


def test_several_runs_share_a_page(a_run: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Record.create(Path("runs"), "more", [STUDY], {}) as record, record.lock():
        fill(record)
    code, out, _ = typed(capsys, "report", a_run, "more")
    assert (code, out) == (0, "report.html\n")
    assert "more/sam" in Path(out.strip()).read_text()


def test_a_run_from_python_has_a_page(a_run: str) -> None:
    page = samtune.load("runs/mine").report()
    assert page.html.startswith("<!doctype html>")
    assert 'srcdoc="&lt;!doctype html' in page._repr_html_()


def test_a_page_is_opened(
    a_run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(command.webbrowser, "open", lambda url: bool(asked.append(url)))
    code, _, err = typed(capsys, "report", a_run, "--open", "-o", "a.html")
    assert code == 0 and asked == [Path("a.html").absolute().as_uri()]
    assert "open a.html yourself" in err


def test_a_page_follows_a_run_to_its_end(
    a_run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, pages = Path("a.html"), []
    with Record.open(Path("runs"), a_run) as record:
        lock = record.lock()
        lock.__enter__()

        def wait(_: float) -> None:
            pages.append(page.read_text())
            if len(pages) == 1:
                record.add_trial(0, "search", 6, "sampled", CONFIG)
            else:
                lock.__exit__(None, None, None)

        monkeypatch.setattr(command.time, "sleep", wait)
        code, out, err = typed(capsys, "report", a_run, "--watch", "-o", "a.html")
    assert (code, out) == (0, "a.html\n") and "Ctrl-C ends that" in err
    assert all('http-equiv="refresh"' in text for text in pages)
    assert ["6 of 7 trained" in text for text in pages] == [False, True]
    assert "refresh" not in page.read_text()


def test_a_page_that_cannot_be_drawn_is_told_and_ends_nothing(
    a_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("no axis")

    monkeypatch.setattr(report, "page", fail)
    Path("runs/mine/report.html").write_text("old")
    told: list[str] = []
    with Record.open(Path("runs"), a_run) as record:
        report.write_tables(record)
        report.write_report(record, told.append)
    assert told == ["report.html is not written (no axis); `samtune report mine` tries again"]
    assert not Path("runs/mine/report.html").exists()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["nobody"], 2, "nobody"),
        ([], 2, "Missing argument"),
        (["mine", "-o", "no/a.html"], 5, "cannot write no/a.html"),
    ],
)
def test_a_mistake_is_one_sentence(
    a_run: str, capsys: pytest.CaptureFixture[str], words: list[str], code: int, sentence: str
) -> None:
    found, out, err = typed(capsys, "report", *words)
    assert (found, out) == (code, "")
    assert sentence in err
