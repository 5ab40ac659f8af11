"""Golden numbers of the verdict procedure, and agreement with statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from analysis.statistics import (
    detectable,
    e_value,
    holm,
    images_test,
    margin,
    over_images,
    over_studies,
    over_task_means,
    over_tasks,
    paired,
    power,
    rank_sets,
    seeds_needed,
    until_decided,
    verdicts,
)

# Correct answers of 500, per seed bundle, of three variants on the digits.
COUNTS = {
    "sgd": "463 444 466 466 461 459 461 466 470 464 452 457 470 464 468 474 465 461 433 459",
    "sam": "471 463 471 476 479 469 472 474 478 470 459 454 479 465 476 477 482 461 459 469",
    "asam": "474 461 466 476 476 468 478 478 474 470 467 460 484 470 474 478 475 469 463 473",
}
N_TEST = 500
SCORES = {name: [int(count) / N_TEST for count in row.split()] for name, row in COUNTS.items()}
MARGIN = margin(0.9327, N_TEST)


def first(n: int) -> dict[str, list[float]]:
    return {name: values[:n] for name, values in SCORES.items()}


def near(value: float) -> object:
    return pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    ("val_acc", "n_test", "expected"),
    [(0.9327, 500, 0.01120452676), (0.955, 10_000, 0.002073041244), (0.77, 50_000, 0.0046)],
)
def test_the_margin_is_the_larger_of_error_share_and_binomial_error(
    val_acc: float, n_test: int, expected: float
) -> None:
    assert margin(val_acc, n_test) == near(expected)


def test_the_margin_of_another_metric_is_a_share_of_its_value() -> None:
    assert margin(-3.5, None) == near(0.07)
    assert margin(0.5, None, relative=0.1) == near(0.05)
    with pytest.raises(ValueError, match="between 0 and 1, not at 93"):
        margin(93.0, 500)


def test_a_paired_comparison_has_the_golden_figures() -> None:
    five = paired(first(5)["sam"], first(5)["sgd"], N_TEST, MARGIN)
    assert (five.n, five.wins) == (5, 1.0)
    assert five.mean == near(0.024)
    assert five.sd == near(0.01240967365)
    assert five.t == near(4.324499821)
    assert five.lo == near(0.008591355004)
    assert five.hi == near(0.039408645)
    assert five.p == near(0.01240333159)
    assert five.p_tied == near(0.9587843482)
    ten = paired(first(10)["sam"], first(10)["sgd"], N_TEST, MARGIN)
    assert (ten.t, ten.p) == (near(6.942505647), near(6.740441317e-05))
    twenty = paired(SCORES["sam"], SCORES["sgd"], N_TEST, MARGIN)
    assert (twenty.t, twenty.p) == (near(5.883999256), near(1.149593028e-05))
    assert (twenty.lo, twenty.hi) == (near(0.01166156693), near(0.02453843307))
    assert twenty.wins == 0.925
    assert paired(first(5)["asam"], first(5)["sgd"], N_TEST, MARGIN).p == near(0.02271712335)
    assert paired(first(5)["asam"], first(5)["sam"], N_TEST, MARGIN).p_tied == near(0.01844337556)
    assert paired(SCORES["asam"], SCORES["sam"], N_TEST, MARGIN).p_tied == near(0.0002709181015)


def test_pairing_uses_the_bundles_that_both_completed() -> None:
    x, y = SCORES["sam"], SCORES["sgd"]
    holed = [*x[:5], math.nan, *x[6:]]
    assert paired(holed, y, N_TEST, MARGIN) == paired(x[:5] + x[6:], y[:5] + y[6:], N_TEST, MARGIN)
    with pytest.raises(ValueError, match="two common bundles, and there are 1"):
        paired([0.9, math.nan], [0.8, 0.7], N_TEST, MARGIN)
    with pytest.raises(ValueError, match="equal lengths, not 2 and 3"):
        paired([0.9, 0.9], [0.8, 0.7, 0.6], N_TEST, MARGIN)


def test_holm_steps_down_and_stays_monotone() -> None:
    p = {
        name: paired(first(5)[name], first(5)["sgd"], N_TEST, MARGIN).p for name in ("sam", "asam")
    }
    assert holm(p) == {"sam": near(0.02480666317), "asam": near(0.02480666317)}
    p = {
        name: paired(first(10)[name], first(10)["sgd"], N_TEST, MARGIN).p
        for name in ("sam", "asam")
    }
    assert holm(p) == {"sam": near(0.0001348088263), "asam": near(0.0002880522252)}
    five = {"a": 0.001, "b": 0.04, "c": 0.012, "d": 0.03, "e": 0.6}
    assert list(holm(five).values()) == [near(p) for p in (0.005, 0.09, 0.048, 0.09, 0.6)]
    three = {"a": 0.001, "b": 0.04, "c": 0.012}
    assert list(holm(three, family=8).values()) == [near(p) for p in (0.008, 0.24, 0.084)]
    assert holm({}) == {}
    with pytest.raises(ValueError, match="a family of 2 cannot hold 3"):
        holm(three, family=2)


def test_holm_and_ties_agree_with_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.uniform(size=9) ** 3
        ours = list(holm({str(k): float(v) for k, v in enumerate(p)}).values())
        np.testing.assert_allclose(ours, multipletests(p, method="holm")[1], rtol=1e-12)
        x, y = rng.normal(size=(2, 8))
        found = paired(x.tolist(), y.tolist(), None, 0.4)
        theirs = ttost_paired(x, y, -0.4, 0.4)[0]
        assert found.p_tied == pytest.approx(theirs, rel=1e-9)


def test_verdicts_of_a_fixed_plan() -> None:
    assert verdicts(first(5), "sgd", N_TEST, MARGIN) == {"sam": "better", "asam": "better"}
    assert verdicts(first(5), "sam", N_TEST, MARGIN) == {"sgd": "worse", "asam": "tied"}
    assert verdicts(first(5), "sam", N_TEST, 0.004) == {"sgd": "worse", "asam": "underpowered"}
    holed = first(5) | {"late": [0.9] + [math.nan] * 4}
    assert verdicts(holed, "sgd", N_TEST, MARGIN)["late"] == "underpowered"
    # A family of three: sam alone has p = 0.0124.
    assert verdicts(holed, "sgd", N_TEST, MARGIN)["sam"] == "better"
    with pytest.raises(ValueError, match="'sdg' has no scores; there are sgd, sam, asam"):
        verdicts(first(5), "sdg", N_TEST, MARGIN)


def test_until_decided_stops_at_the_first_look_that_decides() -> None:
    assert until_decided(SCORES, "sgd", N_TEST, MARGIN) == {
        "sam": ("better", 10),
        "asam": ("better", 10),
    }
    assert until_decided(SCORES, "sam", N_TEST, MARGIN) == {
        "sgd": ("worse", 10),
        "asam": ("tied", 10),
    }
    assert until_decided(SCORES, "sam", N_TEST, 0.004) == {
        "sgd": ("worse", 10),
        "asam": ("underpowered", 20),
    }
    # The look at ten has not come yet.
    assert until_decided(first(9), "sgd", N_TEST, MARGIN)["sam"] == ("underpowered", 5)
    assert until_decided(first(3), "sgd", N_TEST, MARGIN)["sam"] == ("underpowered", 3)


def test_a_tied_variant_stays_in_the_family_of_later_looks() -> None:
    base = [0.9, 0.91, 0.9, 0.89, 0.9, 0.92, 0.9, 0.9]
    equal = [0.9, 0.91, 0.9, 0.89, 0.9, 0.92, 0.9, 0.9]
    rises = [0.9, 0.93, 0.9, 0.91, 0.91, 0.94, 0.92, 0.91]
    scores = {"base": base, "equal": equal, "rises": rises}
    p = paired(rises, base, None, 0.001).p
    looks = {"looks": (4, 8), "levels": (1e-9, 1.5 * p)}
    alone = until_decided({"base": base, "rises": rises}, "base", None, 0.001, **looks)
    assert alone == {"rises": ("better", 8)}
    both = until_decided(scores, "base", None, 0.001, **looks)
    assert both == {"equal": ("tied", 4), "rises": ("underpowered", 8)}


def test_power_and_the_seeds_for_it() -> None:
    assert power(0.3, 0.2 * math.sqrt(2), 5, 0.05) == near(0.4401417756)
    assert power(1, 1.2, 10, 0.05 / 21) == near(0.1524293471)
    assert [seeds_needed(0.5, 1, 0.05 / m) for m in (1, 2, 7, 21)] == [34, 41, 54, 65]
    assert detectable(1, 10, 0.05) == near(0.9960022543)
    assert detectable(1, 20, 0.05 / 21) == near(0.9888362323)


def test_power_at_its_ends() -> None:
    assert power(0.0, 1.0, 10, 0.05) == pytest.approx(0.025, abs=1e-3)
    assert power(100.0, 1.0, 10, 0.05) == 1.0
    assert power(1.0, 0.0, 10, 0.05) == 1.0
    assert power(1.0, 1.0, 1, 0.05) == 0.0
    assert seeds_needed(0.0, 1.0, 0.05) == math.inf
    assert seeds_needed(50.0, 1.0, 0.05) == 3
    assert seeds_needed(-0.5, 1.0, 0.05) == 34
    assert power(0.5, 1.0, int(seeds_needed(0.5, 1, 0.05)) - 1, 0.05) < 0.8
    assert seeds_needed(0.001, 1.0, 0.05) == pytest.approx(7.85e6, rel=0.01)
    assert detectable(1.0, 1, 0.05) == math.inf


def test_tasks_are_averaged_with_satterthwaite_and_searches_by_their_means() -> None:
    tasks = [[0.02, 0.01, 0.03], [0, 0.01, -0.01, 0.02], [0.05, -0.01, 0.02, 0.03, 0.01]]
    assert over_tasks(tasks) == (
        near(0.015),
        near(0.004920419634),
        near(0.02507958037),
        near(8.426751592),
    )
    searches = [[0.02, 0.01, 0.03], [0, 0.01, -0.01], [0.05, 0.04, 0.03]]
    assert over_studies(searches) == (
        near(0.02),
        near(-0.02968275424),
        near(0.06968275424),
        near(0.2254033308),
    )
    means, errors, n = zip(
        *((np.mean(d), np.std(d, ddof=1) / math.sqrt(len(d)), len(d)) for d in tasks), strict=True
    )
    assert over_task_means(means, errors, n) == pytest.approx(over_tasks(tasks))
    with pytest.raises(ValueError, match="each task needs two"):
        over_tasks([[0.1, 0.2], [0.3]])
    with pytest.raises(ValueError, match="two of them, and there are 1"):
        over_studies([[0.1, 0.2]])


def test_equal_and_constant_scores_are_judged_by_the_rounding_floor() -> None:
    flat = [0.9] * 5
    equal = paired(flat, flat, N_TEST, MARGIN)
    assert (equal.sd, equal.p) == (near(0.0008164965809), 1.0)
    assert equal.p_tied == near(3.360128602e-06)
    by_word = {
        lead: verdicts({"a": flat, "b": [0.9 + lead] * 5}, "a", N_TEST, MARGIN)["b"]
        for lead in (0.0, 0.01, 0.03)
    }
    assert by_word == {0.0: "tied", 0.01: "tied", 0.03: "better"}
    assert paired([0.91] * 5, flat, N_TEST, MARGIN).p_tied == near(0.01498450236)


def test_without_a_test_size_there_is_no_floor() -> None:
    equal = paired([0.5] * 4, [0.5] * 4, None, 0.01)
    assert (equal.sd, equal.t, equal.p, equal.p_tied) == (0.0, 0.0, 1.0, 0.0)
    apart = paired([0.75] * 4, [0.5] * 4, None, 0.01)
    assert (apart.t, apart.p, apart.p_tied) == (math.inf, 0.0, 1.0)


def test_rank_sets_hold_the_ranks_that_are_not_excluded() -> None:
    scores = first(10) | {"flat": [0.93] * 10, "low": [0.80 + 0.001 * i for i in range(10)]}
    assert rank_sets(scores, N_TEST) == {
        "sgd": (3, 4),
        "sam": (1, 2),
        "asam": (1, 2),
        "flat": (3, 4),
        "low": (5, 5),
    }
    assert rank_sets({"alone": [0.5, 0.6]}, N_TEST) == {"alone": (1, 1)}


def test_the_e_value_and_the_crossed_design() -> None:
    assert math.log(e_value(3, 10)) == near(1.831731381)
    assert e_value(-3, 10) == e_value(3, 10)
    assert e_value(0, 10) < 1
    assert e_value(1e200, 3) == math.inf
    a = [[1, 1, 0, 1, 1, 1], [1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 0, 1]]
    b = [[1, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1], [1, 1, 0, 1, 0, 0]]
    assert over_images(a, b) == (near(0.2777777778), near(0.05555555556), near(0.05555555556))
    with pytest.raises(ValueError, match=r"shape \(seeds, images\)"):
        over_images([1, 0], [0, 1])
    # The images differ no more than the rest does, so the seeds alone decide: a plain t test.
    plain = stats.ttest_rel(np.mean(a, axis=1), np.mean(b, axis=1))
    low, high = plain.confidence_interval()
    assert images_test(a, b) == (near(0.2777777778), near(low), near(high), near(plain.pvalue))


def test_an_interval_over_images_covers_what_new_images_would_give() -> None:
    """The interval of the seeds alone does not."""
    rng = np.random.default_rng(5)
    boards, n, images = 400, 5, 200
    covered = np.zeros(2)
    for _ in range(boards):
        # An image is right in a variant with a chance of its own; the true difference is zero.
        ease = rng.normal(size=(2, 1, images))
        luck = 0.5 * rng.normal(size=(2, n, images)) + 0.1 * rng.normal(size=(2, n, 1))
        a, b = ease + luck > 0
        plain = paired(a.mean(axis=1).tolist(), b.mean(axis=1).tolist(), None, 0.0)
        _, low, high, p = images_test(a, b)
        covered += [plain.lo <= 0 <= plain.hi, low <= 0 <= high]
        assert (p > 0.05) == (low <= 0 <= high)
    seeds, both = covered / boards
    assert both >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / boards) and seeds < 0.9
