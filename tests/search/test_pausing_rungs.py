"""Rungs at which trials pause until they have a place: promote and halving."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rung_driver import LIMIT, Driver, distinct, kept, made, some_of, without

from samtune.record.rows import Verdict
from samtune.search.rungs import PausingRungs


def halved(
    value: Callable[[int, int], float],
    trials: set[int],
    levels: Sequence[int],
    factor: int,
    margin: float,
) -> list[set[int]]:
    """Synchronous successive halving, written down in one go."""
    survivors = []
    for level in levels:
        ranked = sorted(trials, key=lambda trial: -value(trial, level))
        places = max(1, len(ranked) // factor)
        extra = min(places, (len(ranked) - places) // 2)
        cutoff = value(ranked[places - 1], level)
        near = [t for t in ranked[places:][:extra] if value(t, level) >= cutoff - margin]
        trials = {*ranked[:places], *near}
        survivors.append(trials)
    return survivors


@settings(deadline=None, max_examples=80)
@given(
    st.integers(0, 2**32),
    st.integers(1, 40),
    st.integers(2, 4),
    st.integers(1, 9),
    st.sampled_from([0, 0.1]),
)
def test_halving_is_synchronous_successive_halving(
    seed: int, total: int, factor: int, slots: int, margin: float
) -> None:
    value = distinct(seed, total)
    failing = some_of(seed, total)
    rungs = made("halving", total, factor, tolerance=1)
    driver = Driver(
        rungs,
        total,
        random.Random(seed),
        value,
        slots,
        margin,
        lives=without(failing),
    )
    levels = [int(level) for level in rungs.milestones]
    expected = halved(value, set(range(total)) - failing, levels, factor, margin)
    assert kept(rungs) == expected
    assert {t for t, state in driver.states.items() if state == "done"} == expected[-1]


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(2, 4), st.integers(1, 9))
def test_promote_lets_the_best_of_each_rung_go_on_and_none_that_never_was(
    seed: int, total: int, factor: int, slots: int
) -> None:
    value = distinct(seed, total)
    rungs = made("promote", total, factor)
    driver = Driver(rungs, total, random.Random(seed), value, slots)
    once_best: list[set[int]] = [set() for _ in rungs.milestones]
    arrived: list[list[int]] = [[] for _ in rungs.milestones]
    for (_, trial, used, *_), verdict in zip(driver.calls, driver.verdicts, strict=True):
        if verdict.rung is not None:
            arrived[verdict.rung].append(trial)
            ranked = sorted(arrived[verdict.rung], key=lambda t: -value(t, used))
            once_best[verdict.rung] |= set(ranked[: len(ranked) // factor])
    for rung, level in enumerate(map(int, rungs.milestones)):
        ranked = sorted(arrived[rung], key=lambda t, at=level: -value(t, at))
        best = set(ranked[: max(1, len(ranked) // factor)])
        went_on = {trial for trial in arrived[rung] if driver.used[trial] > level}
        assert best <= went_on == kept(rungs)[rung] <= best | once_best[rung]
    assert "done" in driver.states.values()


def test_promotes_on_arrival_or_later_and_each_once() -> None:
    rungs = made("promote", 9)
    assert [rungs.judge(t, 1, v).decision for t, v in enumerate([0.3, 0.2])] == ["pause"] * 2
    assert rungs.promoted() is None and rungs.waiting()
    assert rungs.judge(2, 1, 0.9) == Verdict("continue", 0, 1, 0.9)
    assert [rungs.judge(t, 1, 0.1).decision for t in (3, 4)] == ["pause"] * 2
    # Of six, two go on.
    assert rungs.judge(5, 1, 0.1) == Verdict("pause", 0, 1, 0.3)
    assert rungs.promoted() == 0 and rungs.promoted() is None


def test_the_highest_rung_is_promoted_first() -> None:
    rungs = made("promote", 99)
    for trial, value in enumerate([0.1, 0.2, 0.5]):
        rungs.judge(trial, 3, value)
    for trial, value in enumerate([0.8, 0.1, 0.2, 0.3, 0.4], 10):
        rungs.judge(trial, 1, value)
    rungs.judge(15, 1, 0.1)
    for trial in (20, 21, 22):
        rungs.judge(trial, 3, 0.0)
    assert [rungs.promoted() for _ in range(3)] == [1, 10, 14]


@pytest.mark.parametrize("mode", ["promote", "halving"])
def test_a_place_whose_trial_fails_goes_to_the_next_best(mode: str) -> None:
    rungs = made(mode, 3)
    verdicts = [rungs.judge(t, 1, v) for t, v in enumerate([0.9, 0.8, 0.7])]
    assert [v.decision for v in verdicts] == ["pause", "pause", "stop"]
    assert rungs.promoted() == 0 and rungs.promoted() is None and not rungs.waiting()
    assert rungs.judge(0, 2, math.nan).decision == "stop"
    assert rungs.promoted() == 1
    rungs.judge(1, LIMIT, 0.8)
    rungs.ended(1)
    assert rungs.promoted() is None, "one that is done has used its place"


def test_the_last_to_arrive_need_not_pause() -> None:
    rungs = made("halving", 2)
    assert rungs.judge(0, 1, 0.1).decision == "pause"
    assert rungs.judge(1, 1, 0.9) == Verdict("continue", 0, 1, 0.9)
    assert rungs.promoted() is None


def test_those_to_audit_are_fetched_after_those_that_have_a_place() -> None:
    rungs = PausingRungs(1, 3, LIMIT, total=7, early=False, audit=0.5)
    values = [0.1, 0.2, 0.3, 0.9, 0.8, 0.4]
    for trial, value in enumerate(values):
        assert rungs.judge(trial, 1, value).decision == "pause"
    rungs.ended(6)
    fetched = [rungs.promoted() for _ in range(4)]
    assert fetched[:2] == [3, 4]
    assert set(fetched[2:]) == rungs.audited and not rungs.waiting()
    trial = fetched[2]
    assert rungs.judge(trial, 1, values[trial]) == Verdict("continue", audited=True)
    assert rungs.judge(trial, 3, 1.0) == Verdict("continue", audited=True)
    assert rungs.occupancy == (6, 0, 0)


def test_a_copy_goes_its_own_way() -> None:
    rungs = made("promote", 3)
    rungs.judge(0, 1, 0.5)
    other = copy.deepcopy(rungs)
    other.judge(1, 1, 0.6)
    assert rungs.occupancy == (1, 0, 0)


def test_a_free_place_is_not_for_a_trial_that_was_stopped() -> None:
    rungs = made("halving", 2)
    assert rungs.judge(0, 1, 0.9).decision == "pause"
    # The last one to arrive closes the rung.
    assert rungs.judge(1, 1, 0.5).decision == "stop"
    assert rungs.promoted() == 0
    rungs.ended(0)
    assert rungs.promoted() is None and not rungs.waiting()


def test_a_free_place_is_not_for_an_audited_trial_that_has_failed() -> None:
    rungs = made("halving", 7, audit=1)
    for trial in range(7):
        rungs.judge(trial, 1, 0.9 - trial / 10)
    assert [rungs.promoted() for _ in range(7)] == [0, 1, 2, 3, 4, 5, None]
    rungs.ended(2)
    rungs.ended(0)
    # Both places are for trials that can reach the next rung, which then closes.
    assert kept(rungs)[0] == {1, 3}
    assert rungs.judge(1, 3, 0.9).decision == "pause"
    assert rungs.judge(3, 3, 0.1).decision in {"stop", "continue"}
    assert rungs.promoted() == 1
    assert not rungs.waiting()
