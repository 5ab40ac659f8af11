"""ASHA's rungs as a pure function of committed reports."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samtune.asha import Rungs, milestones


def test_milestones_lie_below_the_full_budget() -> None:
    assert milestones(2, 3, 20) == (2, 6, 18)
    assert milestones(1, 3, 9) == (1, 3)
    assert milestones(20, 3, 20) == ()


def test_keeps_the_best_third_of_what_was_seen() -> None:
    rungs = Rungs(grace=1, factor=3, limit=9)
    verdicts = [rungs.judge(t, 1, v) for t, v in enumerate([0.5, 0.4, 0.6, 0.55, 0.1, 0.7])]
    assert "".join(v.decision[0] for v in verdicts) == "csccsc"
    assert verdicts[3].cutoff == 0.55 and verdicts[3].milestone == 1 and verdicts[3].rung == 0


def test_lower_is_better_under_min() -> None:
    rungs = Rungs(1, 3, 9, mode="min")
    assert rungs.judge(0, 1, 0.5).decision == "continue"
    worse = rungs.judge(1, 1, 0.6)
    assert worse.decision == "stop" and worse.cutoff == 0.5


def test_equal_values_share_the_places() -> None:
    rungs = Rungs(1, 3, 9)
    kept = [rungs.judge(t, 1, 0.5).decision for t in range(81)].count("continue")
    assert kept == 27


def test_judges_only_at_the_highest_milestone_reached_and_once() -> None:
    rungs = Rungs(1, 3, 27)
    assert rungs.judge(0, 5, 0.9).rung == 1
    assert rungs.occupancy == (0, 1, 0)
    assert rungs.judge(0, 6, 0.1).rung is None
    assert rungs.judge(0, 9, 0.1).rung == 2


def test_a_sum_of_counted_samples_reaches_its_milestone_in_spite_of_rounding() -> None:
    assert Rungs(2, 3, 20).judge(0, sum([0.1] * 20) - 1e-12, 0.5).rung == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_value_stops_and_takes_no_place(value: float) -> None:
    rungs = Rungs(1, 3, 9)
    assert rungs.judge(0, 1, value).decision == "stop"
    assert rungs.occupancy == (0, 0)


def plainly(reports: list[tuple[int, float, float]], levels: list[float], factor: int) -> str:
    """The rule of `Rungs`, written anew from all earlier reports for each one."""
    told: list[tuple[float, int, float, str]] = []
    answers = ""
    for trial, used, value in reports:
        level = max((x for x in levels if used >= x), default=None)
        if level is None or any((x, t) == (level, trial) for x, t, _, _ in told):
            answers += "c"
            continue
        rivals = [(v, a) for x, _, v, a in told if x == level]
        ahead = sum(v > value or (v == value and a == "c") for v, a in rivals)
        answers += "c" if ahead < math.ceil((len(rivals) + 1) / factor) else "s"
        told.append((level, trial, value, answers[-1]))
    return answers


@given(st.integers(0, 2**32), st.integers(2, 4), st.integers(1, 40))
def test_decides_as_the_plain_rule_does(seed: int, factor: int, trials: int) -> None:
    draw = random.Random(seed)
    reports = [
        (draw.randrange(trials), draw.choice([1, 2, 3, 4, 9, 16]), round(draw.random(), 1))
        for _ in range(100)
    ]
    rungs = Rungs(1, factor, 27)
    answers = "".join(rungs.judge(*report).decision[0] for report in reports)
    assert answers == plainly(reports, list(rungs.milestones), factor)
