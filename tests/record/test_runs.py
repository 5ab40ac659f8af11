"""The runs of a folder are listed, noted, renamed and removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_export import add
from test_record import STUDY

from samtune.record.folder import RunError, names
from samtune.record.record import Record
from samtune.record.runs import add_note, notes, remove, rename
from samtune.views.runs import HEADINGS, cells, runs_of


@pytest.fixture
def shelf(runs: Path) -> Path:
    """Two runs: `one` with a completed trial, `two` with nothing yet."""
    with Record.create(runs, "one", [STUDY]) as record:
        add(record, "search", 0, [{"f1": 0.25}])
    Record.create(runs, "two", [STUDY]).__exit__()
    return runs


def test_all_runs_are_listed_with_what_is_known_of_them(shelf: Path) -> None:
    add_note(shelf, "one", "  the first\nof many ")
    add_note(shelf, "one", "keep")
    (shelf / "bad").mkdir()
    (shelf / "bad" / "sweep.db").write_text("no database")
    with Record.open(shelf, "two") as record, record.lock():
        found = {row["run"]: row for row in runs_of(shelf)}
    assert names(shelf) == ["bad", "one", "two"]
    one = found["one"]
    assert one["notes"] == ["the first of many", "keep"] and one["spaces"] == ["sam"]
    assert (one["state"], one["ended"], one["trials"]) == ("stopped", 1, 3)
    assert one["best"] == {"value": 0.25, "trial": 0, "knobs": {"lr": 0.1}, "space": "sam"}
    assert found["two"]["state"] == "running" and found["two"]["best"] is None
    assert (
        found["bad"]["state"] == "unreadable" and "not a samtune record" in found["bad"]["reason"]
    )
    rows = {row[0]: row for row in cells(list(found.values()))}
    assert len(rows["one"]) == len(HEADINGS) and rows["one"][5] == "val_acc 0.2500 (sam:0)"
    assert rows["one"][7] == "the first of many; keep" and rows["bad"][1] == "-"


def test_notes_can_be_taken_back(shelf: Path) -> None:
    add_note(shelf, "one", "ü, über")
    assert notes(shelf / "one") == ["ü, über"]
    add_note(shelf, "one", " ")
    assert notes(shelf / "one") == []
    with pytest.raises(RunError, match="no run 'three'"):
        add_note(shelf, "three", "x")


def test_a_run_is_removed_with_its_files_and_its_name_is_free(shelf: Path) -> None:
    remove(shelf, "one")
    assert names(shelf) == ["two"] and [path.name for path in shelf.iterdir()] == ["two"]
    Record.create(shelf, "one", [STUDY]).__exit__()


def test_a_renamed_run_goes_on_under_its_new_name(shelf: Path) -> None:
    assert rename(shelf, "one", "other") == shelf / "other"
    with Record.open(shelf, "other") as record, record.lock():
        (trial,) = record.trials()
        assert record.name == "other"
        assert trial.config.checkpoint_dir == str(shelf / "other" / "checkpoints" / "00001")
    for new, code in (("two", 4), ("No Name", 2), ("../out", 2)):
        with pytest.raises(RunError) as caught:
            rename(shelf, "other", new)
        assert caught.value.exit_code == code


def test_a_live_run_is_neither_removed_nor_renamed(shelf: Path) -> None:
    with Record.open(shelf, "one") as record, record.lock():
        for change in (lambda: remove(shelf, "one"), lambda: rename(shelf, "one", "new")):
            with pytest.raises(RunError, match="another process") as caught:
                change()
            assert caught.value.exit_code == 4
        add_note(shelf, "one", "still running")
    assert names(shelf) == ["one", "two"] and notes(shelf / "one") == ["still running"]
