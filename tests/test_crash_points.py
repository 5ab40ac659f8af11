"""A sweep whose every write fails once, and at whose every write its process is killed once.

The manner of SQLite's own tests: write number n fails, for n = 1, 2, ... until a sweep runs to its
end without meeting it. The sweep is the real one (search, rungs, record, checkpoints, tables)
without Ray: the trials run in the driver, one at a time, in a child that is forked for each n.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import samtune
from samtune import cluster, durable, tables
from samtune.export import export
from samtune.live import QuietView
from samtune.record import Record
from samtune.run_folder import RunError
from samtune.space import SearchSpace
from samtune.stages import Search, rungs_of
from samtune.stop import Stop, Watch
from samtune.sweep import _Driver
from samtune.trial import TrialConfig
from trainables import checkpoint

SPACE = SearchSpace.load(
    "sgd",
    [
        *("budget.kind=epochs", "budget.per_trial=2", "budget.trials=3", "search.method=random"),
        *("asha.grace=1", "asha.factor=2"),
    ],
)
STUDY = {
    **{"name": "sgd", "variant": SPACE.variant, "base": SPACE.base, "space": SPACE.text},
    "sha256": SPACE.sha256,
    "settings": json.dumps(
        {
            **{"search_alg": "random", "scheduler": "asha 1 x 2", "mode": "max", "trials": 3},
            "searched": ["lr", "weight_decay"],
        }
    ),
}


class _Told(BaseException):
    """The driver told the trial to stop; as in Ray, no trainable catches it."""


def train(config: TrialConfig) -> None:
    """Weights that depend on every epoch before, saved and reported as a trainable does it."""
    folder = Path(config.checkpoint_dir or "")
    state: dict[str, Any] = {"epoch": 0, "weights": torch.full((8,), float(config.knobs["lr"]))}
    found = checkpoint.latest(folder)
    if found is not None:
        state = checkpoint.load(found)
        send(state, checkpoint.verify(found))
    while state["epoch"] < config.budget.per_trial:
        weights = torch.cos(state["weights"] + state["epoch"])
        state = {"epoch": state["epoch"] + 1, "weights": weights}
        send(state, checkpoint.save(folder, state["epoch"], state))


def send(state: dict[str, Any], saved: checkpoint.Saved) -> None:
    samtune.report(
        epoch=state["epoch"],
        val_acc=state["weights"].mean().item(),
        checkpoint=str(saved.path),
        checkpoint_sha256=saved.sha256,
    )


@dataclass
class _Trial:
    """As much of Ray Tune's trial as the driver looks at."""

    trial_id: str


def sweep(record: Record, witness: int) -> Stop:
    """The whole search and its tables; a line to `witness` for each report that is committed."""
    add_report = record.add_report

    def witnessed(trial: int, attempt: int, report: Any, metric: str) -> int:
        seq = add_report(trial, attempt, report, metric)
        os.write(witness, f"{trial} {attempt} {report['epoch']}\n".encode())
        return seq

    record.add_report = witnessed  # type: ignore[method-assign]
    stop = Stop()
    watch = Watch(record.folder, stop)
    driver = _Driver(Search(record, [SPACE]), record, QuietView(), stop, watch)
    for number in itertools.count():
        trial = _Trial(str(number))
        config = driver.propose(trial.trial_id)
        if not isinstance(config, dict):
            break

        def told(result: dict[str, Any], trial: Any = trial) -> None:
            if driver.reported(trial, result).decision == "stop":
                raise _Told

        returned = True
        with mock.patch.multiple(cluster, tune=mock.Mock(report=told), resolve=lambda _: train):
            try:
                cluster.run_trial(config)
            except _Told:
                returned = False
        driver.ended(trial.trial_id, {"done": returned}, False)
    driver.close(cut=stop.requested)
    if not stop.requested:
        export(record)
    return stop


def run_or_resume(runs: Path, witness: int) -> Stop:
    taken = (runs / "mine").exists()
    record = Record.open(runs, "mine") if taken else Record.create(runs, "mine", [STUDY])
    with record, record.lock():
        return sweep(record, witness)


def killed_at(number: int, runs: Path, witness: int) -> bool:
    """Runs the sweep in a child that is killed at a crash point; whether it came to that."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            durable.fault("kill", number)
            run_or_resume(runs, witness)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in {0, -signal.SIGKILL}
    return code != 0


def failed_at(number: int, runs: Path, witness: int) -> bool:
    """Runs the sweep on a disk that is full from a crash point on; whether it came to that."""
    try:
        durable.fault("enospc", number)
        return run_or_resume(runs, witness).why == "disk full"
    except OSError as error:
        assert error.errno == errno.ENOSPC
        return True
    except RunError as error:
        assert error.exit_code == 5 and "No space left" in str(error)
        return True
    finally:
        durable.fault(None)


def content(folder: Path) -> dict[str, list[Any]]:
    """What a run's tables say, but for times and attempts."""
    passing = {
        *("wall_s", "started_at", "ended_at", "reported_at"),
        *("attempt", "attempts", "epochs_repeated", "superseded"),
    }
    rows = {}
    for table in ("trials", "curves", "repeats"):
        read = tables.read(folder / f"{table}.parquet", table).to_pylist()
        kept = [row for row in read if not row.get("superseded")]
        rows[table] = [{k: v for k, v in row.items() if k not in passing} for row in kept]
    return rows


def assert_whole(runs: Path, told: list[tuple[int, ...]]) -> None:
    """Nothing torn, nothing lost: what a run must be after a crash."""
    if not (runs / "mine").exists():
        assert not told
        return
    with Record.open(runs, "mine") as record:
        record.verify()
        reports = list(record.reports())
        assert {*told} <= {(r.trial, r.attempt, r.epoch) for r in reports}
        rungs = rungs_of(SPACE, 3)
        for report in reports:
            verdict = rungs.judge(report.trial, report.used, report.value)
            assert report.decision in {None, verdict.decision}
        last = {report.trial: report for report in reports}
        for trial in record.trials("state = 'running'"):
            newest = checkpoint.latest(Path(trial.config.checkpoint_dir or ""))
            if trial.trial in last:
                assert newest is not None
                assert checkpoint.load(newest)["epoch"] >= last[trial.trial].epoch
        export(record)
        content(record.folder)


@pytest.mark.slow
@pytest.mark.parametrize("crash", [failed_at, killed_at])
def test_a_sweep_survives_a_crash_at_every_write(
    memory: Path,
    crash: Callable[[int, Path, int], bool],
    record_property: Callable[[str, object], None],
) -> None:
    nobody = os.open(os.devnull, os.O_WRONLY)
    run_or_resume(memory / "unharmed", nobody)
    unharmed = content(memory / "unharmed" / "mine")
    for number in itertools.count(1):
        runs = memory / str(number)
        with (memory / "witness").open("wb") as witness:
            crashed = crash(number, runs, witness.fileno())
        if not crashed:
            break
        lines = (memory / "witness").read_text().splitlines()
        assert_whole(runs, [tuple(map(int, line.split())) for line in lines])
        run_or_resume(runs, nobody)
        assert content(runs / "mine") == unharmed, f"crash point {number}"
        shutil.rmtree(runs)
    assert content(runs / "mine") == unharmed
    assert number > 80
    kind = "killed" if crash is killed_at else "disk full"
    record_property(f"write calls survived, {kind}", f"{number - 1} of {number - 1}")
