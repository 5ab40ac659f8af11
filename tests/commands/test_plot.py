"""`samtune plot` on a run made without Ray."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_record import STUDY, fill
from typed import typed

from samtune.record.record import Record


@pytest.fixture
def a_run(in_folder: None, monkeypatch: pytest.MonkeyPatch) -> str:
    with Record.create(Path("runs"), "mine", [STUDY], {}) as record, record.lock():
        fill(record)
    return "mine"


def test_kinds_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = typed(capsys, "plot", "--list")
    assert (code, err) == (0, "")
    assert "curves       learning curve of each trial, with the rungs\n" in out


def test_a_chart_goes_to_stdout_or_into_a_file(
    a_run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = typed(capsys, "plot", a_run, "curves")
    assert code == 0 and out.startswith("<svg ")
    code, out, _ = typed(capsys, "plot", a_run, "curves", "-o", "a.svg", "--theme", "dark")
    assert (code, out) == (0, "a.svg\n")
    assert Path("a.svg").read_text().startswith("<svg ")


def test_a_picture_needs_the_extra(
    a_run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    code, _, err = typed(capsys, "plot", a_run, "curves", "-o", "a.png")
    assert code == 5 and "pip install 'samtune[plot]'" in err
    assert not Path("a.png").exists()


def test_pictures_are_written_by_the_extra(a_run: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vl_convert", reason="the extra samtune[plot]")
    for name, start in (("a.png", b"\x89PNG"), ("a.pdf", b"%PDF")):
        assert typed(capsys, "plot", a_run, "curves", "-o", name)[0] == 0
        assert Path(name).read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["mine", "curvs"], 2, "no kind of chart is called 'curvs'; did you mean 'curves'?"),
        (["mine"], 2, "`samtune plot --list` lists them"),
        (["mine", "leaderboard"], 2, "mine: there is nothing to draw"),
        (["mine", "curves", "-o", "a.jpg"], 2, "a figure is written as .svg, .png, .pdf"),
        (["mine", "curves", "-o", "no/a.svg"], 5, "cannot write no/a.svg"),
        (["nobody", "curves"], 2, "nobody"),
    ],
)
def test_a_mistake_is_one_sentence(
    a_run: str, capsys: pytest.CaptureFixture[str], words: list[str], code: int, sentence: str
) -> None:
    found, out, err = typed(capsys, "plot", *words)
    assert (found, out) == (code, "")
    assert sentence in err
