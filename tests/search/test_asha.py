"""The rungs: what all rules share, the rule that stops, and the scheduler that Tune asks."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rung_driver import LIMIT, MODES, Driver, distinct, kept, made

from samtune.record.rows import Verdict
from samtune.search.rungs import StoppingRungs, extra_places, milestones, standard_error

# What all rules share


def test_milestones_lie_below_the_full_budget() -> None:
    assert milestones(2, 3, 20) == (2, 6, 18)
    assert milestones(1, 3, 9) == (1, 3)
    assert milestones(20, 3, 20) == ()


def test_the_standard_error_is_the_binomials_and_losses_have_none() -> None:
    assert standard_error("val_acc", 0.9, 100) == pytest.approx(0.03)
    assert standard_error("val_f1", 0.9, 100) == pytest.approx(0.03)
    assert standard_error("val_loss", 0.9, 100) == 0
    assert standard_error("val_acc", 0.9, None) == standard_error("val_acc", 93.0, 100) == 0


@pytest.mark.parametrize("mode", MODES)
def test_without_a_milestone_every_trial_runs_to_its_end(mode: str) -> None:
    driver = Driver(made(mode, 5, grace=LIMIT), 5, random.Random(0), distinct(0, 5))
    assert set(driver.states.values()) == {"done"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_value_stops_and_takes_no_place(mode: str, value: float) -> None:
    rungs = made(mode, 2)
    assert rungs.judge(0, 1, value).decision == "stop"
    assert rungs.occupancy == (0, 0, 0)
    assert not rungs.waiting()


@pytest.mark.parametrize("mode", MODES)
def test_judges_only_at_the_highest_milestone_reached_and_once(mode: str) -> None:
    rungs = made(mode, 1)
    assert rungs.judge(0, 5, 0.9).rung == 1
    assert rungs.occupancy == (0, 1, 0)
    assert rungs.judge(0, 6, 0.1) == Verdict("continue")
    assert rungs.judge(0, 2, 0.1) == Verdict("continue")
    assert rungs.judge(0, 9, 0.1).rung == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_sum_of_counted_samples_reaches_its_milestone_in_spite_of_rounding(mode: str) -> None:
    assert made(mode, 1).judge(0, sum([0.1] * 30) - 1e-12, 0.5).rung == 1


@pytest.mark.parametrize("mode", MODES)
def test_who_has_used_the_whole_budget_is_done_and_not_stopped(mode: str) -> None:
    rungs = made(mode, 9)
    for trial in range(8):
        rungs.judge(trial, 9, 0.9)
    assert rungs.judge(8, LIMIT, 0.1).decision == "continue"


@pytest.mark.parametrize("mode", MODES)
def test_a_report_that_is_sent_again_is_told_what_stands(mode: str) -> None:
    rungs = made(mode, 3)
    first = [rungs.judge(trial, 1, value) for trial, value in enumerate([0.9, 0.2, 0.3])]
    if mode != "stop":
        assert rungs.promoted() == 0
    assert rungs.judge(0, 1, 0.9) == Verdict("continue")
    assert rungs.judge(1, 1, 0.2) == first[1] != Verdict("continue")
    assert rungs.occupancy == (3, 0, 0)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32), st.sampled_from(MODES), st.integers(1, 40), st.sampled_from([0, 0.3])
)
def test_a_rebuild_from_the_reports_is_the_live_one(
    seed: int, mode: str, total: int, audit: float
) -> None:
    def run() -> Driver:
        draw = random.Random(seed)
        lives = {trial: draw.choice([2, 5, 30, 30, 30]) for trial in range(total)}
        values = {(t, u): round(draw.random(), 1) for t in range(total) for u in range(1, 28)}
        rungs = made(mode, total, tolerance=1, audit=audit)
        return Driver(
            rungs, total, draw, lambda t, u: values[t, u], error=0.05, lives=lives.__getitem__
        )

    live, again = run(), run()
    assert live.calls == again.calls and live.verdicts == again.verdicts
    rebuilt = made(mode, total, tolerance=1, audit=audit)
    for name, *call in live.calls:
        getattr(rebuilt, name)(*call)
    assert vars(rebuilt) == vars(live.rungs)
    assert rebuilt.promoted() is None


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from(MODES), st.integers(1, 40))
def test_an_audit_changes_no_decision_of_the_rungs(seed: int, mode: str, total: int) -> None:
    rungs = made(mode, total, audit=0.25)
    driver = Driver(rungs, total, random.Random(seed), distinct(seed, total))
    plain = made(mode, total)
    for (_, *report), verdict in zip(driver.calls, driver.verdicts, strict=True):
        # What a trial reports after it was stopped, there is no more.
        if not verdict.audited or verdict.rung is not None:
            plain.judge(*report)
    assert kept(plain) == kept(rungs)
    assert plain.occupancy == rungs.occupancy
    # All ran on to the end, and their share is right to a trial.
    losers = total - len(kept(plain)[-1])
    assert all(driver.states[trial] == "done" for trial in rungs.audited)
    assert abs(len(rungs.audited) - 0.25 * losers) <= 1


def test_audited_trials_say_so_in_every_verdict_and_diverge_as_others_do() -> None:
    rungs = made("stop", 3, audit=1)
    rungs.judge(0, 1, 0.9)
    stopped = rungs.judge(1, 1, 0.1)
    assert stopped == Verdict("continue", 0, 1, 0.9, audited=True)
    assert rungs.judge(1, 3, 0.99) == Verdict("continue", audited=True)
    assert rungs.occupancy == (2, 0, 0)
    assert rungs.judge(1, 4, math.nan) == Verdict("stop", audited=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("factor", "few", "many"), [(2, 42, 63), (3, 28, 56), (4, 21, 42)])
def test_equal_trials_still_thin_out_at_any_tolerance(
    mode: str, factor: float, few: int, many: int
) -> None:
    for tolerance, expected in ((0, few), (9, many)):
        rungs = made(mode, 84, factor, tolerance=tolerance)
        for trial in range(84):
            rungs.judge(trial, 1, 0.5, 0.02)
        assert len(kept(rungs)[0]) == expected


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_extra_places_leave_half_of_the_losers_behind(judged: int, places: int) -> None:
    extra = extra_places(judged, places)
    assert 0 <= extra <= places
    assert judged <= places or judged - places - extra >= (judged - places) / 2


# stop


def test_keeps_the_best_third_of_what_was_seen() -> None:
    rungs = StoppingRungs(grace=1, factor=3, limit=9)
    verdicts = [rungs.judge(t, 1, v) for t, v in enumerate([0.5, 0.4, 0.6, 0.55, 0.1, 0.7])]
    assert "".join(v.decision[0] for v in verdicts) == "csccsc"
    assert verdicts[3].cutoff == 0.55 and verdicts[3].milestone == 1 and verdicts[3].rung == 0


def test_lower_is_better_under_min() -> None:
    rungs = StoppingRungs(1, 3, 9, mode="min")
    assert rungs.judge(0, 1, 0.5).decision == "continue"
    worse = rungs.judge(1, 1, 0.6)
    assert worse.decision == "stop" and worse.cutoff == 0.5


def test_equal_values_share_the_places() -> None:
    rungs = StoppingRungs(1, 3, 9)
    passed = [rungs.judge(t, 1, 0.5).decision for t in range(81)].count("continue")
    assert passed == 27


def test_a_near_tie_passes_and_a_clear_loser_does_not() -> None:
    def decisions(tolerance: float) -> str:
        rungs = StoppingRungs(1, 3, 9, tolerance=tolerance)
        values = [0.90, 0.5, 0.4, 0.89, 0.875, 0.8]
        return "".join(rungs.judge(t, 1, v, 0.02).decision[0] for t, v in enumerate(values))

    # Of five, two have a place; the third best is near the second, the last far from it.
    assert decisions(0) == "csscss"
    assert decisions(1) == "cssccs"


@pytest.mark.parametrize("mode", MODES)
def test_exact_ties_are_near_ties_for_any_metric(mode: str) -> None:
    """Scores of 0 in the first epochs, whose standard error is 0."""
    rungs = made(mode, 9, tolerance=1)
    for trial in range(9):
        rungs.judge(trial, 1, 0.0, standard_error("f1", 0.0, 48))
    assert len(kept(rungs)[0]) == 6
    strict = made(mode, 9, tolerance=0)
    for trial in range(9):
        strict.judge(trial, 1, 0.0)
    assert len(kept(strict)[0]) == 3


def plainly(
    reports: list[tuple[int, float, float]],
    levels: Sequence[float],
    factor: int,
    margin: float,
) -> str:
    """Decide by the rule of `StoppingRungs`, computed anew from all earlier reports each time."""
    told: list[tuple[float, int, float, str]] = []
    answers = ""
    for trial, used, value in reports:
        level = max((x for x in levels if used >= x), default=None)
        own = [(x, a) for x, t, _, a in told if t == trial]
        if level is None or any(x >= level for x, _ in own):
            answers += "c" if level is None or own[-1][1] != "s" else "s"
            continue
        rivals = [(v, a) for x, _, v, a in told if x == level]
        ahead = sum(v > value or (v == value and a == "c") for v, a in rivals)
        places = math.ceil((len(rivals) + 1) / factor)
        cutoff = sorted([v for v, _ in rivals] + [value], reverse=True)[places - 1]
        ties = sum(a == "n" for _, a in rivals)
        left = min(places, (len(rivals) + 1 - places) // 2) - ties
        near = "n" if cutoff - margin <= value and left > 0 else "s"
        told.append((level, trial, value, "c" if ahead < places else near))
        answers += told[-1][3].replace("n", "c")
    return answers


@given(
    st.integers(0, 2**32),
    st.integers(2, 4),
    st.integers(1, 40),
    st.sampled_from([0, 0.15]),
)
def test_decides_as_the_plain_rule_does(
    seed: int, factor: int, trials: int, margin: float
) -> None:
    draw = random.Random(seed)
    reports = [
        (draw.randrange(trials), draw.choice([1, 2, 3, 4, 9, 16]), round(draw.random(), 1))
        for _ in range(100)
    ]
    rungs = StoppingRungs(1, factor, LIMIT, tolerance=1)
    answers = "".join(rungs.judge(*report, margin).decision[0] for report in reports)
    assert answers == plainly(reports, rungs.milestones, factor, margin)
