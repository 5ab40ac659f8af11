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
from pathlib import Path
from typing import Any

import pytest
import torch

import samtune
from samtune import durable, tables
from samtune.export import export
from samtune.live import QuietView
from samtune.record import Record, RunError
from samtune.space import SearchSpace
from samtune.sweep import Search, Stop, _Driver, rungs_of
from samtune.trial import TrialConfig, running
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


class _Told(Exception):
    """The driver told the trial to stop."""


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


class _Tune:
    """As much of Ray Tune's trial as the driver looks at."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def sweep(record: Record, witness: int) -> None:
    """The whole search and its tables; a line to `witness` for each report that is committed."""
    add_report = record.add_report

    def witnessed(trial: int, attempt: int, report: Any, metric: str) -> int:
        seq = add_report(trial, attempt, report, metric)
        os.write(witness, f"{trial} {attempt} {report['epoch']}\n".encode())
        return seq

    record.add_report = witnessed  # type: ignore[method-assign]
    driver = _Driver(Search(record, [SPACE]), record, QuietView(), Stop())
    for number in itertools.count():
        tune = _Tune(str(number))
        proposal = driver.propose(tune.trial_id)
        if proposal is None:
            break
        config = TrialConfig.from_dict(proposal["trial"])

        def commit(report: dict[str, Any], tune: Any = tune) -> None:
            verdict = driver.reported(tune, {"report": json.dumps(report)})
            if verdict.decision == "stop":
                raise _Told

        try:
            with running(config, commit):
                train(config)
        except _Told:
            pass
        driver.ended(tune.trial_id, {"done": True}, False)
    driver.close()
    export(record)


def run_or_resume(runs: Path, witness: int) -> None:
    taken = (runs / "mine").exists()
    record = Record.open(runs, "mine") if taken else Record.create(runs, "mine", [STUDY])
    with record, record.lock():
        sweep(record, witness)


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
        run_or_resume(runs, witness)
    except OSError as error:
        assert error.errno == errno.ENOSPC
        return True
    except RunError as error:
        assert error.exit_code == 5 and "No space left" in str(error)
        return True
    finally:
        durable.fault(None)
    return False


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
        rungs = rungs_of(SPACE)
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
    memory: Path, crash: Callable[[int, Path, int], bool]
) -> None:
    with (memory / "witness").open("wb") as witness:
        run_or_resume(memory / "unharmed", witness.fileno())
    unharmed = content(memory / "unharmed" / "mine")
    for number in itertools.count(1):
        runs = memory / str(number)
        with (memory / "witness").open("wb") as witness:
            crashed = crash(number, runs, witness.fileno())
        if not crashed:
            break
        lines = (memory / "witness").read_text().splitlines()
        assert_whole(runs, [tuple(map(int, line.split())) for line in lines])
        shutil.rmtree(runs, ignore_errors=True)
    assert content(runs / "mine") == unharmed
    assert number > 80
