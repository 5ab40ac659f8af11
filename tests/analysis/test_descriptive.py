"""Descriptive statistics against hand-made cases and enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from analysis.descriptive import (
    expected_best,
    friedman,
    interquartile_mean,
    kendall_in_bins,
    performance_profile,
    plateau,
    rung_fidelity,
    share_within,
    transfer_regret,
    wilson,
    wrong_stops,
)


def test_wilson_solves_its_equation() -> None:
    found = wilson(463, 500)
    z = stats.norm.ppf(0.975)
    for end in (found.lo, found.hi):
        assert abs(0.926 - end) == pytest.approx(z * math.sqrt(end * (1 - end) / 500), rel=1e-9)
    assert found.share == 0.926
    assert wilson(0, 10).lo == 0


def test_the_interquartile_mean_leaves_a_quarter_out_at_each_end() -> None:
    assert interquartile_mean([100.0, 1.0, 2.0, 3.0, 4.0, -50.0, 2.5, 3.5]) == 2.75


def test_the_expected_best_equals_enumeration() -> None:
    values = [0.2, 0.9, 0.5, 0.7]
    for n in (1, 2, 3):
        draws = [max(draw) for draw in itertools.product(values, repeat=n)]
        assert expected_best(values, n) == pytest.approx(np.mean(draws))


def test_the_share_near_the_best_and_the_plateau_of_rho() -> None:
    assert share_within([0.95, 0.945, 0.9, 0.2]).share == 0.5
    rho = np.logspace(-2, 1, 37)
    flat_to_one = np.where(rho <= 1.0, 0.9, 0.5)
    wide = plateau(rho, flat_to_one)
    assert (wide.lo, wide.hi) == pytest.approx((0.01, 1.0), rel=0.8) and wide.star == rho[0]
    assert wide.decades == pytest.approx(2.0, abs=0.26)
    # A second region of equal height that a poor one separates does not count.
    gap = np.where((rho > 0.1) & (rho < 0.4), 0.5, 0.9)
    gap[-1] = 0.905
    right = plateau(rho, gap)
    assert right.decades == pytest.approx(1.5, abs=0.26) and right.lo > 0.3
    assert plateau([0.1, 0.1], [0.8, 0.9]).decades == 0.0


def test_the_regret_of_a_transfer_is_a_mean_over_the_other_tasks() -> None:
    scores = {
        "a": {"x": 0.9, "y": 0.8},
        "b": {"x": 0.5, "y": 0.7},
        "c": {"x": 0.6, "y": 0.6},
    }
    assert transfer_regret(scores, "a") == pytest.approx(0.1)
    assert transfer_regret(scores, "b") == pytest.approx(0.05)
    with pytest.raises(ValueError, match="another task"):
        transfer_regret({"a": {"x": 1.0}}, "a")


def test_rungs_are_judged_by_rank_correlation_and_exact_intervals() -> None:
    assert rung_fidelity([1, 2, 3, 4], [2, 4, 6, 9]) == pytest.approx(1.0)
    assert rung_fidelity([1, 2], [2, 4]) is None
    assert rung_fidelity([1, 1, 1], [1, 2, 3]) is None
    stops = wrong_stops([0.8, 0.95, 0.7, 0.9], best_kept=0.9)
    assert stops.share == 0.25
    # P(at most 1 of 4 | hi) = 2.5 %.
    assert stats.binom.cdf(1, 4, stops.hi) == pytest.approx(0.025)


def test_a_profile_is_the_exact_area_of_its_steps() -> None:
    areas = performance_profile({"a": [10.0, 40.0], "b": [20.0, 20.0], "c": [math.inf, 90.0]})
    assert areas == {
        "a": pytest.approx((3 + 2) / 6),
        "b": pytest.approx((2 + 3) / 6),
        "c": 0.0,
    }
    nobody = performance_profile({"a": [math.inf], "b": [math.inf]})
    assert nobody == {"a": 0.0, "b": 0.0}


def test_friedman_is_refused_below_five_tasks() -> None:
    scores = {"a": [5.0, 5, 5, 5, 5], "b": [4.0, 4, 4, 4, 6], "c": [3.0, 3, 3, 3, 3]}
    found = friedman(scores)
    assert found.mean_ranks == {"a": 1.2, "b": 1.8, "c": 3.0}
    assert found.p < 0.05
    with pytest.raises(ValueError, match="needs 5 tasks, and there are 4"):
        friedman({name: values[:4] for name, values in scores.items()})


def test_sharpness_is_compared_within_learning_rates() -> None:
    lr = [0.1, 0.1, 0.1, 1.0, 1.0, 1.0]
    sharp = [1.0, 2.0, 3.0, 11.0, 12.0, 13.0]
    score = [0.5, 0.6, 0.7, 0.9, 0.8, 0.7]
    found = kendall_in_bins(sharp, score, lr, bins=2)
    assert found == [(0.1, 0.1, 3, pytest.approx(1.0)), (1.0, 1.0, 3, pytest.approx(-1.0))]
    assert kendall_in_bins(sharp[:2], score[:2], lr[:2], bins=4)[0][3] is None
