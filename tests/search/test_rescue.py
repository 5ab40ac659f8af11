"""The rule `stop` with an end of its own and a rescue of the most promising stopped trials."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rung_driver import LIMIT, MODES, Driver, made, some_of, without

from samtune.record.rows import Verdict
from samtune.search.rungs import RungForecast, forecast
from samtune.space.schema import AshaSettings

UNTIL = 18


@pytest.mark.parametrize("mode", MODES)
def test_a_trial_is_completed_at_until_and_no_rung_lies_beyond(mode: str) -> None:
    rungs = made(mode, 2, until=9)
    assert rungs.milestones == (1, 3)
    assert rungs.judge(0, 8, 0.9).decision in {"continue", "pause"}
    assert rungs.judge(1, 9, 0.1).decision == "complete"
    assert made(mode, 1, until=LIMIT).judge(0, LIMIT, 0.1).decision == "continue"


def test_an_audited_trial_is_completed_at_until_too() -> None:
    rungs = made("stop", 2, grace=3, until=9, audit=1)
    rungs.judge(0, 3, 0.9)
    assert rungs.judge(1, 3, 0.1) == Verdict("continue", 0, 3, 0.9, audited=True)
    assert rungs.judge(1, 9, 0.1) == Verdict("complete")


def test_a_trial_that_gained_less_than_others_at_its_rung_is_not_preferred() -> None:
    """0.5 at the low rung, from which others gain 0.3, beats 0.6 at the high one."""
    rungs = made("stop", 4, factor=2, grace=3, until=9, tolerance=0, rescue=1)
    for used, value in ((3, 0.5), (6, 0.8), (9, 0.8)):
        first = rungs.judge(0, used, value)
    assert first.decision == "complete"
    assert [rungs.judge(1, used, 0.6).decision for used in (3, 6)] == ["continue", "pause"]
    assert rungs.judge(2, 3, 0.4).decision == "pause"
    assert rungs.promoted() is None, "one trial has not been judged yet"
    assert rungs.judge(3, 3, 0.5).decision == "pause"
    assert rungs.judge(3, 3, 0.5).decision == "pause", "a report that is sent again"
    assert rungs.promoted() == 3 and rungs.promoted() is None and not rungs.waiting()
    assert [rungs.judge(3, used, 0.0).decision for used in (6, 9)] == ["continue", "complete"]


def noisy(seed: int) -> Callable[[int, int], float]:
    return lambda trial, used: random.Random(f"{seed} {trial} {used}").random()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(2, 4), st.integers(1, 9))
def test_the_best_by_value_and_gain_are_rescued_when_all_have_been_judged(
    seed: int, total: int, factor: int, slots: int
) -> None:
    # Sums of these have no ties, which the estimates of two rungs could have otherwise.
    value = noisy(seed)
    failing = some_of(seed, total)
    rungs = made("stop", total, factor, until=UNTIL, rescue=2)
    driver = Driver(
        rungs,
        total,
        random.Random(seed),
        value,
        slots,
        lives=without(failing),
    )
    calls = [call for call in driver.calls if call[0] == "judge"]
    judged = list(zip(calls, driver.verdicts, strict=True))
    paused = {call[1]: call[2] for call, verdict in judged if verdict.decision == "pause"}
    done = {call[1] for call, verdict in judged if verdict.decision == "complete"}
    survivors = done - paused.keys()
    assert done | paused.keys() | failing == set(range(total))

    def estimate(trial: int) -> float:
        level = paused[trial]
        gains = [value(t, UNTIL) - value(t, level) for t in survivors]
        return value(trial, level) + (fmean(gains) if gains else 0)

    best = sorted(paused, key=lambda t: -estimate(t))[:2]
    assert done & paused.keys() == set(best)
    late = [call[2] > paused.get(call[1], LIMIT) for call in calls]
    assert late == sorted(late), "they go on when no other trial is left to judge"
    assert not any(
        v.rung is not None for v, then in zip(driver.verdicts, late, strict=True) if then
    )


def test_the_forecast_ends_at_until_with_the_rescued() -> None:
    asha = AshaSettings(grace=8, factor=3, until=16, rescue=2)
    assert forecast(15, [8], asha, asha.end_of(20), 1) == [
        RungForecast(8, 15, 120),
        RungForecast(16, 7, 56),
    ]
