"""Observers of a sweep: one that fails is told once, and neither ends the sweep nor the others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from lab_run import add, make_run

from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.record.rows import Verdict
from samtune.sweep.loggers import LOGGERS
from samtune.sweep.observers import Hook, Observers, observers


@pytest.fixture
def record(runs: Path) -> Record:
    return make_run(runs)


class Failing:
    """An observer that fails at each event."""

    name = "failing"

    def __init__(self) -> None:
        self.heard: list[str] = []

    def _fail(self, word: str) -> None:
        self.heard.append(word)
        raise OSError("disk full")

    def started(self, *_: Any) -> None:
        self._fail("started")

    def reported(self, *_: Any) -> None:
        self._fail("reported")

    def ended(self, *_: Any) -> None:
        self._fail("ended")

    def close(self) -> None:
        self._fail("close")


def test_an_observer_that_fails_is_told_once_and_the_others_hear_on(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lab_other.py").write_text("heard = []\ndef hear(report): heard.append(report)\n")
    add(record, 0, [0.5], "completed")
    (trial,) = record.trials()
    report = {"epoch": 1, "used": 1.0, "metrics": {"val_acc": 0.5}}
    failing, told = Failing(), []
    hook = Hook("lab_other:hear", "mine")
    with Observers(record, [failing, hook], told.append) as all_of_them:
        all_of_them.started(trial, 0)
        all_of_them.reported(trial, 0, report, Verdict("stop"))
        all_of_them.ended(trial, "completed")
    assert failing.heard == ["started", "reported", "ended", "close"]
    assert len(told) == 1 and "disk full" in told[0]
    assert [event["kind"] for event in record.events()] == ["observer failed"]
    (heard,) = sys.modules["lab_other"].heard
    assert (heard["trial"], heard["epoch"], heard["decision"]) == (0, 1, "stop")


def test_a_logger_that_does_not_start_is_told(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path) -> None:
        raise RuntimeError("no store")

    monkeypatch.setitem(LOGGERS, "mlflow", broken)
    with pytest.raises(RunError, match="--log mlflow did not start: no store") as caught:
        observers(record, ["mlflow"], None, print)
    assert caught.value.exit_code == 5


def test_a_hook_that_exits_ends_no_sweep(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lab_quits.py").write_text("import sys\ndef hear(report): sys.exit(3)\n")
    add(record, 0, [0.5], "completed")
    (trial,) = record.trials()
    report = {"epoch": 1, "used": 1.0, "metrics": {"val_acc": 0.5}}
    told: list[str] = []
    with Observers(record, [Hook("lab_quits:hear", "mine")], told.append) as all_of_them:
        for _ in range(3):
            all_of_them.reported(trial, 0, report, Verdict("continue"))
    (warning,) = told
    assert "SystemExit: 3; the sweep goes on" in warning
