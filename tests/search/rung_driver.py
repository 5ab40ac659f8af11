"""Rungs driven through whole stages, without an engine."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from samtune.record.rows import Verdict
from samtune.search.rungs import Rungs, rungs_for
from samtune.space.schema import AshaSettings

LIMIT = 27
MODES = ("stop", "promote", "halving")


def made(mode: str, total: int, factor: float = 3, **words: Any) -> Rungs:
    asha = AshaSettings.model_validate({"mode": mode, "grace": 1, "factor": factor, **words})
    return rungs_for(asha, LIMIT, "max", total)


def some_of(seed: int, total: int) -> set[int]:
    """Return about a fifth of the trials, never all."""
    return {t for t in range(1, total) if random.Random(seed + t).random() < 0.2}


def without(failing: set[int]) -> Callable[[int], float]:
    """Return what a trial can use if `failing` trials fail before the first milestone."""
    return lambda trial: 0 if trial in failing else LIMIT


class Driver:
    """Runs trials on `slots` under `rungs`, in an order drawn from `draw`, as an engine does.

    `value(trial, used)` is what a trial reports; `lives(trial)` what it can use before it fails.
    """

    def __init__(
        self,
        rungs: Rungs,
        total: int,
        draw: random.Random,
        value: Callable[[int, int], float],
        slots: int = 4,
        error: float = 0.0,
        lives: Callable[[int], float] = lambda trial: math.inf,
    ) -> None:
        self.rungs, self.error = rungs, error
        self.calls: list[tuple[Any, ...]] = []
        self.verdicts: list[Verdict] = []
        self.used = dict.fromkeys(range(total), 0)
        self.states: dict[int, str] = {}
        new, running = list(range(total)), []
        draw.shuffle(new)
        while True:
            while len(running) < slots:
                trial = rungs.promoted()
                if trial is None and new:
                    trial = new.pop()
                if trial is None:
                    break
                assert self.states.get(trial, "pause") == "pause", "it cannot go on"
                running.append(trial)
                self.states[trial] = "running"
            if not running:
                break
            trial = draw.choice(running)
            self.used[trial] += 1
            used = self.used[trial]
            if used > lives(trial):
                self.told(trial, "failed")
                rungs.ended(trial)
                self.calls.append(("ended", trial))
                running.remove(trial)
                continue
            report = (trial, used, value(trial, used), error)
            verdict = rungs.judge(*report)
            self.calls.append(("judge", *report))
            self.verdicts.append(verdict)
            if verdict.decision != "continue" or used == LIMIT:
                self.told(trial, "done" if used == LIMIT else verdict.decision)
                running.remove(trial)
        assert not rungs.waiting(), "trials wait for what can no longer come"

    def told(self, trial: int, state: str) -> None:
        self.states[trial] = state


def kept(rungs: Rungs) -> list[set[int]]:
    return [rung.kept | rung.near for rung in rungs._rungs]


def distinct(seed: int, total: int) -> Callable[[int, int], float]:
    """Curves that cross; no two values at a milestone are equal."""
    draw = random.Random(seed)
    table = {used: draw.sample(range(total), total) for used in range(1, LIMIT + 1)}
    return lambda trial, used: table[used][trial] / total
