"""The commands for the next day: `ls`, `rm`, `mv` and `note`."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from typed import typed

from samtune.cli import cli
from samtune.commands.tables import latex_table
from samtune.record.logs import log_path
from samtune.record.record import Record
from samtune.record.rows import digest
from samtune.trial import Budget, Seeds, TrialConfig


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        text = "samtune: 1\ntrainable: trainables.vision:sam\nvariant: sam\nbase: sgd\n"
        study = {
            **{"name": "sam", "variant": "sam", "base": "sgd", "space": text},
            "sha256": digest(text),
            "settings": json.dumps(
                {
                    **{"search_alg": "tpe", "scheduler": "asha", "mode": "max"},
                    **{"trials": 2, "searched": ["rho"]},
                }
            ),
        }
        Record.create(Path("runs"), name, [study]).__exit__()
    return tmp_path


def test_runs_are_listed_with_their_notes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(capsys, "note", "one", "the  first try") == (0, "", "")
    code, out, _ = typed(capsys, "ls", "--json")
    rows = {row["run"]: row for row in json.loads(out)["runs"]}
    assert code == 0 and list(rows) == ["two", "one"], "the newest is first"
    assert rows["one"]["notes"] == ["the first try"] and rows["two"]["notes"] == []
    assert rows["one"]["state"] == "stopped" and rows["one"]["spaces"] == ["sam"]
    _, out, _ = typed(capsys, "ls")
    assert "the first try" in out and "0/2" in out
    typed(capsys, "note", "one", "")
    assert "the first try" not in typed(capsys, "ls")[1]
    code, _, err = typed(capsys, "note", "three", "x")
    assert code == 2 and "no run 'three'" in err


def test_a_run_is_renamed_with_its_tables(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = typed(capsys, "mv", "one", "two")
    assert code == 4 and "taken" in err
    code, _, err = typed(capsys, "mv", "one", "../up")
    assert code == 2 and "no name for a run" in err
    code, _, err = typed(capsys, "mv", "one", "first")
    assert code == 0 and "one is now first" in err
    assert Path("runs/first/trials.parquet").is_file() and not Path("runs/one").exists()


def test_a_run_is_named_by_its_folder_too(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    folder = here / "runs" / "one"
    assert typed(capsys, "status", f"{folder}/")[0] == 0
    assert typed(capsys, "note", str(folder), "from afar")[0] == 0
    assert typed(capsys, "mv", str(folder), "first")[0] == 0
    assert typed(capsys, "rm", str(folder.with_name("first")), "--yes")[0] == 0
    assert [path.name for path in folder.parent.iterdir()] == ["two"]
    code, _, err = typed(capsys, "best", str(folder))
    assert code == 2 and f"{str(folder)!r} is no name for a run, and no folder of one" in err
    assert f"runs in {folder.parent}: two" in err


def test_a_run_is_removed_only_when_that_is_confirmed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = CliRunner().invoke(cli, ["rm", "one"], input="n\n", standalone_mode=False)
    assert "remove one and all its files?" in asked.output and Path("runs/one").is_dir()
    with Record.open(Path("runs"), "one") as record, record.lock():
        code, _, err = typed(capsys, "rm", "one", "--yes")
        assert code == 4 and "is running; `samtune stop one` stops it" in err
    code, _, err = typed(capsys, "rm", "one", "two", "--yes")
    assert code == 0 and "removed one" in err and "removed two" in err
    assert list(Path("runs").iterdir()) == []
    code, _, err = typed(capsys, "rm", "one", "--yes")
    assert code == 2 and "no run 'one'" in err


def test_without_an_answer_nothing_is_removed(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = typed(capsys, "rm", "one")
    assert code == 75 and "nothing was changed" in err and Path("runs/one").is_dir()


def test_the_log_of_a_trial_is_shown_without_control_characters(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Record.open(Path("runs"), "one") as record:
        config = TrialConfig("m:f", "sam", "sgd", {}, {}, Budget("epochs", 1), Seeds(1, 1, 1))
        trial = record.add_trial(0, "search", 0, "default", config)
        assert typed(capsys, "logs", "one", "0") == (0, "", "")
        log = log_path(record.folder, trial.trial)
        log.parent.mkdir()
        log.write_text("first\n\x1b[31mred\nno end of line")
        code, out, _ = typed(capsys, "logs", "one", "0", "--follow")
        assert code == 0, "nothing runs, so nothing is waited for"
        assert out == "first\n\\x1b[31mred\nno end of line\n"
    code, _, err = typed(capsys, "logs", "one", "7")
    assert code == 2 and "no trial '7'" in err


def test_a_board_in_latex_has_no_bare_percent_or_underscore() -> None:
    text = latex_table(["val acc %", "knobs"], [["93.1", "weight_decay=1e-4 & more"]], "a_b")
    assert r"val acc \% & knobs \\" in text and r"weight\_decay=1e-4 \& more" in text
    assert r"\caption{a\_b}" in text
    assert not re.search(r"(?<!\\)[%_]", text)
