"""Runs that a signal, a second terminal or Ctrl-C stops: what is left, and what is said."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from typed import command, typed

from samtune.api import run as stopping
from samtune.record import database as sweep_db
from samtune.record.record import Record
from samtune.record.rows import Stage
from samtune.trial import Budget, Seeds, TrialConfig
from samtune.views.status import status_of, status_text


@pytest.mark.slow
@pytest.mark.parametrize(
    "send",
    [
        pytest.param(lambda pid: os.killpg(pid, signal.SIGINT), id="ctrl-c in a terminal"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGTERM), id="sigterm"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGHUP), id="sighup"),
        pytest.param(lambda pid: os.killpg(pid, signal.SIGTERM), id="sigterm to all, Ray too"),
    ],
)
def test_a_signal_stops_cleanly(here: Path, send: Callable[[int], None]) -> None:
    run = command("run", "sgd", "--name", "cut", "--set", "budget.trials=500")
    seen = []
    assert run.stderr is not None
    for line in run.stderr:
        seen.append(line)
        if line.startswith("[3/"):
            break
    before = time.monotonic()
    send(run.pid)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 75, "".join(seen) + err
    assert time.monotonic() - before < 30
    assert "stopped; all of it is on record" in err and "Traceback" not in err
    with Record.open(Path("runs"), "cut") as record:
        states = {trial.state for trial in record.trials()}
        assert "running" not in states and states & {"completed", "pruned"}
        assert all(attempt["ended_at"] for attempt in record.attempts())
        assert not record.is_locked()
    # Ray's processes carry its scratch folder, which carries the driver's pid.
    deadline = time.monotonic() + 30
    while left := [
        process.info["name"]
        for process in psutil.process_iter(["name", "cmdline"])
        if f"samtune-{run.pid}-" in str(process.info["cmdline"])
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_a_stop_asks_and_opens_no_record_that_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Record.create(Path("runs"), "mine", []) as record, contextlib.ExitStack() as running:
        running.enter_context(record.lock())
        read = sweep_db.connect_to_read

        def unwritten(path: Path) -> sqlite3.Connection:
            assert not record.is_locked()
            return read(path)

        def give_in(seconds: float) -> None:
            assert (record.folder / "stop").exists()
            running.close()

        monkeypatch.setattr(sweep_db, "connect", None)
        monkeypatch.setattr(sweep_db, "connect_to_read", unwritten)
        monkeypatch.setattr(stopping.time, "sleep", give_in)
        code, out, err = typed(capsys, "stop", "mine")
    assert (code, err) == (0, "asked mine to stop\n"), err
    assert out.startswith("mine has finished") and not (record.folder / "stop").exists()


def test_a_stop_says_whether_anything_is_left(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = {"name": "sgd", "variant": "sgd", "base": "sgd", "sha256": "0" * 64}
    study |= {"space": "samtune: 1\nconfirm: {top: 2, seeds: 3}\n"}
    study |= {
        "settings": json.dumps({"mode": "max", "scheduler": "", "searched": [], "trials": 1})
    }
    budget = Budget("compute", 20)
    config = TrialConfig("t:t", "sgd", "sgd", {}, {}, budget, Seeds(1, 1, 1))

    def told() -> str:
        code, out, err = typed(capsys, "stop", "mine")
        assert code == 0 and err == ""
        return out.strip()

    def end(number: int, stage: Stage, **of: int) -> None:
        trial = record.add_trial(0, stage, number, "default", config, **of)
        attempt, _ = record.start_attempt(trial)
        message = {"epoch": 1, "used": 20.0, "metrics": {"val_acc": 0.5}, "facts": {}}
        message |= {"checkpoint": None, "checkpoint_sha256": None}
        record.add_report(trial.trial, attempt, message, "val_acc")
        record.end_trial(trial.trial, "completed")

    def status(found: dict[str, Any]) -> list[str]:
        return status_text(found).splitlines()

    left = "mine is not running; `samtune resume mine` goes on with it"
    with Record.create(Path("runs"), "mine", [study], {"confirm": True}) as record:
        record.add_event("search started")
        assert told() == left
        end(0, "search")
        record.add_event("search ended")
        assert told() == left, "it was asked to confirm"
        assert "  20 see used" in status(status_of(record))
        record.add_event("confirm started")
        end(1, "confirm", source=1, rank=0, bundle=0)
        assert told() == left
        with record.lock():
            found = status_of(record)
            assert found["seconds_left"] > 0 and found["budget_kind"] == "compute"
            assert "  40 see used, about 7:00 left" in status(found | {"seconds_left": 420})
            assert "  40 see used, time left not known yet" in status(
                found | {"seconds_left": None}
            )
        record.add_event("confirm ended")
        assert told() == "mine has finished; `samtune leaderboard mine` shows what it found"
        assert status(status_of(record))[-1] == "next: samtune leaderboard mine"
        record.set_meta("asked", {"confirm": False})
        assert "finished" in told()


@pytest.mark.slow
def test_ctrl_c_before_anything_runs_leaves_nothing(here: Path) -> None:
    run = command("run", "sgd", "--name", "early")
    assert run.stderr is not None
    assert "using the shipped space" in run.stderr.readline()
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 75, err
    assert "stopped" in err and "Traceback" not in err
    assert not Path("runs/early").exists()
