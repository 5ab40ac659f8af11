"""Sweeps with a failed write, or with a killed process, at each of their writes.

The method is that of SQLite's own tests: write number n fails, for n = 1, 2, ..., until a sweep
ends before write n. The sweep is the real one (search, rungs, record, checkpoints, tables) without
Ray: the trials run in the driver, one at a time, in a child process that is forked for each n.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import faults
import pytest
import torch

import samtune
from analysis import leaderboard
from samtune.cluster import worker
from samtune.cluster.size import TrialSize
from samtune.cluster.start import Cluster
from samtune.record import tables
from samtune.record.export import export
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.record.rows import Stage
from samtune.space.search_space import SearchSpace
from samtune.sweep.confirm_stage import ConfirmStage
from samtune.sweep.driver import Driver
from samtune.sweep.live import QuietView
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.stages import rungs_of
from samtune.sweep.stop import Stop
from samtune.trial import TrialConfig
from trainables import checkpoint

WORDS = [
    *("budget.kind=epochs", "budget.per_trial=2", "budget.trials=3", "search.method=random"),
    *("asha.grace=1", "asha.factor=2", "confirm.seeds=2"),
]


@dataclass(frozen=True)
class Case:
    """The part of a sweep in which the crashes occur; it follows the case `after`, if given."""

    stage: Stage
    space: SearchSpace
    after: Case | None = None

    @property
    def study(self) -> dict[str, str]:
        space = self.space
        settings = {
            **{"search_alg": "random", "scheduler": "asha 1 x 2", "mode": "max", "trials": 3},
            "searched": ["lr", "weight_decay"],
        }
        return {
            **{"name": "sgd", "variant": space.variant, "base": space.base, "space": space.text},
            **{"sha256": space.sha256, "settings": json.dumps(settings)},
        }


SEARCH = Case("search", SearchSpace.load("sgd", WORDS))
# Of its three trials one waits at the rung until it is promoted, and one in vain.
PROMOTE = Case("search", SearchSpace.load("sgd", [*WORDS, "asha.mode=promote", "search.seed=2"]))
CONFIRM = Case("confirm", SEARCH.space, after=SEARCH)


def train(config: TrialConfig, witness: int) -> None:
    """Train weights that depend on all epochs, and save and report them like a trainable.

    The last epoch opens the test split, and before that writes a line about it to `witness`.
    """
    folder = Path(config.checkpoint_dir or "")
    state: dict[str, Any] = {"epoch": 0, "weights": torch.full((8,), float(config.knobs["lr"]))}
    found = checkpoint.latest(folder)
    if found is not None:
        state = checkpoint.load(found)
        send(config, state, checkpoint.verify(found))
    while state["epoch"] < config.budget.per_trial:
        weights = torch.cos(state["weights"] + state["epoch"])
        state = {"epoch": state["epoch"] + 1, "weights": weights}
        if config.test_permit is not None and state["epoch"] == config.budget.per_trial:
            os.write(witness, f"{config.test_permit}\n".encode())
            state["test_acc"] = weights.square().mean().item()
        send(config, state, checkpoint.save(folder, state["epoch"], state))


def send(config: TrialConfig, state: dict[str, Any], saved: checkpoint.Saved) -> None:
    samtune.report(
        epoch=state["epoch"],
        val_acc=state["weights"].mean().item(),
        checkpoint=str(saved.path),
        checkpoint_sha256=saved.sha256,
        **{name: state[name] for name in ("test_acc",) if name in state},
    )


def sweep(record: Record, witness: int, case: Case = SEARCH, stop: Stop | None = None) -> Stop:
    """Run a stage and write its tables. Write a line to `witness` for each committed report."""
    add_report = record.add_report

    def witnessed(trial: int, attempt: int, report: Any, metric: str) -> int:
        seq = add_report(trial, attempt, report, metric)
        os.write(witness, f"{trial} {attempt} {report['epoch']}\n".encode())
        return seq

    record.add_report = witnessed
    stop = stop or Stop()
    stage = SearchStage if case.stage == "search" else partial(ConfirmStage, top=None, looks=[2])
    on = Cluster(1, TrialSize(cpus=1, gpus=0, workers=1), record.folder)
    driver = Driver([stage(record, [case.space])], record, on, QuietView(), stop)
    driver.open_next()
    for number in itertools.count():
        tune_id = str(number)
        config = driver.propose(tune_id)
        if config is None:
            break

        def told(result: dict[str, Any], tune_id: str = tune_id) -> None:
            if not driver.reported(tune_id, result) or stop.requested:
                # As Ray does.
                raise SystemExit(0)

        returned = True
        ours = {
            "resolve": lambda _: partial(train, witness=witness),
            "tune": mock.Mock(report=told),
        }
        # A request for the node's name would start Ray.
        ours["ray"] = mock.Mock(
            **{"get_runtime_context.return_value.get_node_id.return_value": "0"}
        )
        with mock.patch.multiple(worker, **ours):
            try:
                worker.run_trial(config)
            except SystemExit:
                returned = False
        driver.ended(tune_id, {"done": returned}, error=False)
    driver.close(cut=stop.requested)
    if not stop.requested:
        export(record)
        if case.stage == "confirm":
            rank(record)
    return stop


def rank(record: Record) -> None:
    board = leaderboard.leaderboard([record.folder])
    leaderboard.save(board, record.folder / "leaderboard.parquet", [record.folder])


def run_or_resume(runs: Path, witness: int, case: Case = SEARCH) -> Stop:
    taken = (runs / "mine").exists()
    record = Record.open(runs, "mine") if taken else Record.create(runs, "mine", [case.study])
    with record, record.lock():
        return sweep(record, witness, case)


def killed_at(number: int, runs: Path, witness: int, case: Case) -> bool:
    """Run the sweep in a child, kill it at a crash point, and return whether it reached that."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            faults.inject("kill", number)
            run_or_resume(runs, witness, case)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in {0, -signal.SIGKILL}
    return code != 0


def failed_at(number: int, runs: Path, witness: int, case: Case = SEARCH) -> bool:
    """Run the sweep on a disk that is full from a crash point on; return whether it got there."""
    try:
        faults.inject("enospc", number)
        return run_or_resume(runs, witness, case).why == "disk full"
    except OSError as error:
        assert error.errno == errno.ENOSPC
        return True
    except RunError as error:
        assert error.exit_code == 5 and "No space left" in str(error)
        return True
    finally:
        faults.inject(None)


def content(folder: Path) -> dict[str, list[Any]]:
    """Return the content of a run's tables without times and attempts."""
    return {path.stem: rows(path) for path in folder.glob("*.parquet")}


def rows(path: Path) -> list[Any]:
    passing = {
        *("wall_s", "search_wall_s", "started_at", "ended_at", "reported_at"),
        *("attempt", "attempts", "epochs_repeated", "superseded", "test_openings"),
    }
    read = tables.read(path, path.stem).to_pylist()
    kept = [row for row in read if not row.get("superseded")]
    return [{k: v for k, v in row.items() if k not in passing} for row in kept]


def assert_tables_whole(folder: Path, *states: dict[str, list[Any]]) -> None:
    """Assert that each table that exists after a crash is the table of one of the states."""
    for table, found in content(folder).items():
        assert found in [state[table] for state in states], table


def assert_whole(runs: Path, told: Sequence[str], case: Case = SEARCH) -> None:
    """Assert that the record is whole after a crash and has every committed report."""
    if not (runs / "mine").exists():
        assert not told
        return
    with Record.open(runs, "mine") as record:
        record.verify()
        reports, openings = list(record.reports()), record.openings()
        committed = {f"{r.trial} {r.attempt} {r.epoch}" for r in reports}
        assert {*told} <= committed | {opening["permit"] for opening in openings}
        tested = {(r.trial, r.attempt) for r in reports if "test_acc" in r.metrics}
        assert tested == {(o["trial"], o["attempt"]) for o in openings if o["used_at"]}
        if case.space.asha.mode == "stop":
            rungs = rungs_of(case.space, 3)
            searched = {trial.trial for trial in record.trials(stage="search")}
            for report in reports:
                if report.trial in searched:
                    verdict = rungs.judge(report.trial, report.used, report.value)
                    assert report.decision in {None, verdict.decision}
        last = {report.trial: report for report in reports}
        for trial in record.trials(states={"running", "paused", "cancelled"}):
            newest = checkpoint.latest(Path(trial.config.checkpoint_dir or ""))
            if trial.trial in last:
                assert newest is not None
                assert checkpoint.load(newest)["epoch"] >= last[trial.trial].epoch
        export(record)


def assert_replayed(folder: Path) -> None:
    """Assert that no resume made a decision other than the recorded one."""
    with Record.open(folder.parent, folder.name) as record:
        assert not [
            event["detail"] for event in record.events() if event["kind"] == "replay differs"
        ]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("crash", [failed_at, killed_at])
def test_a_sweep_survives_a_crash_at_every_write(
    memory: Path,
    crash: Callable[[int, Path, int, Case], bool],
    record_property: Callable[[str, object], None],
) -> None:
    survived = {
        name: crashes_survived(memory / name, case, crash)
        for name, case in {"search": SEARCH, "promote": PROMOTE, "confirm": CONFIRM}.items()
    }
    assert survived["search"] > 100 and survived["promote"] > 105 and survived["confirm"] > 70
    kind, total = "killed" if crash is killed_at else "disk full", sum(survived.values())
    record_property(f"write calls survived, {kind}", f"{total} of {total}")


def crashes_survived(
    folder: Path, case: Case, crash: Callable[[int, Path, int, Case], bool]
) -> int:
    """Assert that a case survives each crash point, and return their number."""
    nobody = os.open(os.devnull, os.O_WRONLY)
    begin(folder / "unharmed", case)
    states = [content(folder / "unharmed" / "mine")] if case.after else []
    run_or_resume(folder / "unharmed", nobody, case)
    unharmed = content(folder / "unharmed" / "mine")
    assert {*unharmed} >= {"trials", "curves", "repeats"}
    begin(folder / "begun", case)
    for number in itertools.count(1):
        runs = folder / str(number)
        shutil.copytree(folder / "begun", runs)
        with (folder / "witness").open("wb") as witness:
            crashed = crash(number, runs, witness.fileno(), case)
        if not crashed:
            break
        assert_tables_whole(runs / "mine", *states, unharmed)
        assert_whole(runs, (folder / "witness").read_text().splitlines(), case)
        run_or_resume(runs, nobody, case)
        assert content(runs / "mine") == unharmed, f"crash point {number}"
        assert_replayed(runs / "mine")
        shutil.rmtree(runs)
    assert content(runs / "mine") == unharmed
    return number - 1


def begin(runs: Path, case: Case) -> None:
    """Make the run that a case starts from: nothing, or the run of the case before it."""
    runs.mkdir(parents=True)
    if case.after is not None:
        run_or_resume(runs, os.open(os.devnull, os.O_WRONLY), case.after)
        with Record.open(runs, "mine") as record:
            rank(record)
