"""A sweep that a signal stops: at a random time, and at a random one of its writes."""

from __future__ import annotations

import os
import random
import signal
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

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def start(runs: Path, witness: int, case: Case, arm: Callable[[], None]) -> int:
    """Starts a sweep in a child that listens to signals and ends as the command does; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        # A shell may have told this process to ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with Record.create(runs, "mine", [case.study]) as record, record.lock():
            stop = Stop()
            with stop.on_signals(partial(os._exit, 9)):
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
    """It arrives some time after a drawn report, long before the sweep would end."""
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
