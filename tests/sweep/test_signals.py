"""Sweeps that a signal stops, at a random time and at a random write."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import faults
import pytest
from test_crash_points import (
    PROMOTE,
    SEARCH,
    WORDS,
    Case,
    assert_whole,
    content,
    run_or_resume,
    sweep,
)

from samtune.api.stages import stopped
from samtune.record.export import export
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace
from samtune.sweep.stop import Stop

pytestmark = pytest.mark.slow

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def start(runs: Path, witness: int, case: Case, arm: Callable[[], None]) -> int:
    """Start a sweep in a child that handles signals like the command, and return its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        # A shell may have started this process with the signal ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with Record.create(runs, "mine", [case.study]) as record, record.lock():
            stop = Stop()
            with stop.on_signals(), stop.deadline(partial(os._exit, 9)):
                arm()
                sweep(record, witness, case, stop)
            export(record)
            code = stopped(record, stop) if stop.requested else 0
    finally:
        os._exit(code)


def assert_stopped(pid: int, runs: Path, told: list[str], case: Case) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    content(runs / "mine")
    assert_whole(runs, told, case)
    with Record.open(runs, "mine") as record:
        assert not any(record.trials(states={"running"}))
        assert all(attempt["ended_at"] for attempt in record.attempts())


@pytest.mark.parametrize("seed", range(6))
def test_a_signal_in_a_write_stops_cleanly_and_costs_nothing(memory: Path, seed: int) -> None:
    draw, runs, case = random.Random(seed), memory / "cut", [SEARCH, PROMOTE][seed % 2]
    sent, number = SIGNALS[seed // 2 % 2], draw.randrange(1, 80)

    def signalled(half: object) -> None:
        if faults.count == number:
            os.kill(os.getpid(), sent)

    def arm() -> None:
        faults.at_each_point(signalled)

    with (memory / "witness").open("wb") as witness:
        pid = start(runs, witness.fileno(), case, arm)
        assert_stopped(pid, runs, (memory / "witness").read_text().splitlines(), case)
        run_or_resume(runs, witness.fileno(), case)
        run_or_resume(memory / "unharmed", witness.fileno(), case)
    assert content(runs / "mine") == content(memory / "unharmed" / "mine")


@pytest.mark.parametrize("seed", range(4))
def test_a_signal_at_a_random_time_stops_cleanly(memory: Path, seed: int) -> None:
    """The signal comes some time after a drawn report, long before the sweep would end."""
    case = replace(SEARCH, space=SearchSpace.load("sgd", [*WORDS, "budget.trials=300"]))
    here, there = os.pipe()
    pid = start(memory, there, case, lambda: None)
    os.close(there)
    told = []
    with os.fdopen(here) as lines:
        for _ in range(random.Random(seed).randrange(1, 30)):
            told.append(next(lines).strip())
        os.kill(pid, SIGNALS[seed % 2])
        told += [line.strip() for line in lines]
    assert_stopped(pid, memory, told, case)


EPOCHS = """
import time
from pathlib import Path

import samtune


def epochs(config):
    for epoch in range(1, 9):
        if epoch == 2:
            Path(config.knobs["name"] + ".begun").touch()
            while not Path("go").exists():
                time.sleep(0.01)
            Path(config.knobs["name"] + ".ended").touch()
        samtune.report(epoch=epoch, val_acc=0.5)
"""
SPACE = """
samtune: 1
trainable: epochs_lab:epochs
budget: {kind: epochs, per_trial: 8}
asha: {grace: 8, factor: 2}
search: {method: grid}
resources: {parallel: 2}
knobs:
  name: {grid: [a, b, c, d]}
"""


@pytest.mark.parametrize("leads_session", [False, True])
def test_a_signal_to_a_process_and_to_its_group_is_one_request(
    tmp_path: Path, leads_session: bool
) -> None:
    """`timeout` and job schedulers send both. Epochs are not cut if Ray is in another group."""
    (tmp_path / "epochs_lab.py").write_text(EPOCHS)
    (tmp_path / "lab.yaml").write_text(SPACE)
    lines = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    lines += "signal.signal(signal.SIGHUP, signal.SIG_DFL);"
    lines += "from samtune.cli import main; main()"
    words = ["run", "lab.yaml", "--name", "cut", "--no-confirm", "--json"]
    run = subprocess.Popen(
        [sys.executable, "-c", lines, *words, "--storage", f"file://{tmp_path}/there"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=leads_session,
        process_group=None if leads_session else 0,
    )
    while len(list(tmp_path.glob("*.begun"))) < 2 and run.poll() is None:
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGTERM)
    os.killpg(run.pid, signal.SIGTERM)
    (tmp_path / "go").touch()
    out, err = run.communicate(timeout=120)
    assert run.returncode == 75, err
    assert "on record" in err and "Traceback" not in err
    json.loads(out)
    here, there = tmp_path / "runs" / "cut", tmp_path / "there" / "cut"
    for table in ("trials", "curves", "leaderboard"):
        assert (here / f"{table}.parquet").exists() and (there / f"{table}.parquet").exists()
    with Record.open(tmp_path / "runs", "cut") as record:
        assert {trial.state for trial in record.trials()} == {"cancelled"}
        assert all(attempt["cause"] == "stopped" for attempt in record.attempts())
    if not leads_session:
        assert len(list(tmp_path.glob("*.ended"))) == 2


def test_a_signal_asks_to_stop_unless_it_is_ignored() -> None:
    stop = Stop()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop.on_signals():
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested, "nohup is respected"
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("later_s", "code"), [(0.0, 75), (0.9, 75), (1.0, 130)])
def test_a_second_signal_ends_the_process_unless_it_comes_with_the_first(
    later_s: float, code: int
) -> None:
    lines = f"""if True:
        import signal, time
        from samtune.sweep.stop import Stop
        stop = Stop()
        with stop.on_signals():
            time.monotonic = lambda: 0.0
            signal.raise_signal(signal.SIGTERM)
            time.monotonic = lambda: {later_s}
            signal.raise_signal(signal.SIGHUP)
        raise SystemExit(75 if stop.signal == signal.SIGTERM else 1)
    """
    done = subprocess.run(
        [sys.executable, "-c", lines], timeout=60, capture_output=True, text=True
    )
    assert done.returncode == code
    assert ("stopped at once, without tables" in done.stderr) is (code == 130)
