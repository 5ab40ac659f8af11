"""Statistics of a leaderboard: paired tests, verdicts, ranks, power and descriptions.

Every function is pure and works on plain sequences. Scores are oriented so that larger is better:
a caller negates a metric that is minimised. NaN marks a seed bundle that a variant did not
complete; a comparison uses the bundles that both variants completed. Distributions come from
scipy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

Word = Literal["better", "worse", "tied", "underpowered"]
Scores = Mapping[str, Sequence[float]]

ALPHA = 0.05
"""The family error rate of a board, and the level of each test for a tie."""

LOOKS = (5, 10, 15, 20)
LEVELS = (0.001, 0.007, 0.015, 0.027)
"""Seeds per look and the level of each look. The levels add up to `ALPHA` (union bound)."""


@dataclass(frozen=True)
class Paired:
    """A paired comparison of two variants over common seed bundles.

    Attributes:
        n: Number of common bundles.
        mean: Mean difference, first minus second.
        sd: Standard deviation of the differences, at least the rounding error of two counts.
        se: Standard error of the mean.
        t: Student's t statistic with n - 1 degrees of freedom.
        lo: Lower end of the 95 % interval of the mean.
        hi: Upper end of the 95 % interval of the mean.
        p: Two-sided p-value of a difference of zero.
        p_tied: P-value of the two one-sided tests of |difference| >= margin.
        wins: Share of bundles in which the first is better; a tie counts one half.
    """

    n: int
    mean: float
    sd: float
    se: float
    t: float
    lo: float
    hi: float
    p: float
    p_tied: float
    wins: float


def margin(val_acc: float, n_test: int | None, relative: float = 0.02) -> float:
    """Return the largest difference that counts as a tie.

    Args:
        val_acc: Validation score of the baseline.
        n_test: Size of the test split; None for a metric that is not an accuracy.
        relative: Share of the baseline's error, or of its value where `n_test` is None.

    Returns:
        The larger of `relative` times the error and one binomial standard error of a reading of
        the test split; without a test size `relative` times the absolute value.

    """
    if n_test is None:
        return relative * abs(val_acc)
    if not 0 <= val_acc <= 1:
        raise ValueError(f"an accuracy lies between 0 and 1, not at {val_acc:g}")
    return max(relative * (1 - val_acc), math.sqrt(val_acc * (1 - val_acc) / n_test))


def paired(x: Sequence[float], y: Sequence[float], n_test: int | None, margin: float) -> Paired:
    """Compare two variants by a paired t test over their common seed bundles.

    Args:
        x: Scores of the first variant, one per bundle; NaN where it did not complete.
        y: Scores of the second variant for the same bundles.
        n_test: Size of the test split, for the rounding floor `1 / (n_test sqrt 6)` of the
            standard deviation; None drops the floor.
        margin: Largest difference that counts as a tie.

    Raises:
        ValueError: The lengths differ, or fewer than two bundles are common.

    """
    first, second = np.asarray(x, float), np.asarray(y, float)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"paired scores have equal lengths, not {first.size} and {second.size}; "
            "give NaN for a bundle that one variant lacks"
        )
    d = first - second
    d = d[np.isfinite(d)]
    n = len(d)
    if n < 2:
        raise ValueError(f"a paired test needs two common bundles, and there are {n}")
    mean = float(d.mean())
    floor = 0.0 if n_test is None else 1 / (n_test * math.sqrt(6))
    sd = max(float(d.std(ddof=1)), floor)
    se = sd / math.sqrt(n)
    t, to_margin = _ratio(mean, se), _ratio(abs(mean) - margin, se)
    half = float(special.stdtrit(n - 1, 0.975)) * se
    return Paired(
        n=n,
        mean=mean,
        sd=sd,
        se=se,
        t=t,
        lo=mean - half,
        hi=mean + half,
        p=2 * float(special.stdtr(n - 1, -abs(t))),
        p_tied=float(special.stdtr(n - 1, to_margin)),
        wins=float(np.mean((d > 0) + 0.5 * (d == 0))),
    )


def holm(p: Mapping[str, float], family: int | None = None) -> dict[str, float]:
    """Return Holm's adjusted p-values.

    Args:
        p: P-value of each hypothesis.
        family: Number of hypotheses in the family, at least `len(p)`; None for `len(p)`. It is
            larger where a hypothesis is not tested any more but still counts.

    """
    family = len(p) if family is None else family
    if family < len(p):
        raise ValueError(f"a family of {family} cannot hold {len(p)} hypotheses")
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        largest = max(largest, min(1.0, p[name] * (family - rank)))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p}


def word(pair: Paired, p_holm: float, alpha: float) -> Word:
    """Return the word for a comparison; a tie is tested before a difference.

    Args:
        pair: The comparison.
        p_holm: Its p-value, adjusted for its family.
        alpha: Level of both tests.

    """
    if pair.p_tied <= alpha:
        return "tied"
    if p_holm <= alpha:
        return "better" if pair.mean > 0 else "worse"
    return "underpowered"


def verdicts(scores: Scores, baseline: str, n_test: int | None, margin: float) -> dict[str, Word]:
    """Compare every variant with the baseline after a fixed number of seeds.

    The family error of `better` and `worse` is at most 5 % by Holm's method; each `tied` is a
    test at 5 %.

    Args:
        scores: Scores per variant in the order of the common bundles; NaN for a missing one.
        baseline: The variant that the others are compared with.
        n_test: Size of the test split, None for a metric that is not an accuracy.
        margin: Largest difference that counts as a tie.

    Returns:
        A word per variant other than the baseline. A variant with fewer than two bundles in
        common with the baseline is `underpowered`.

    """
    return _judge(scores, _others(scores, baseline), baseline, n_test, margin, ALPHA)


def until_decided(
    scores: Scores,
    baseline: str,
    n_test: int | None,
    margin: float,
    looks: Sequence[int] = LOOKS,
    levels: Sequence[float] = LEVELS,
) -> dict[str, tuple[Word, int]]:
    """Compare every variant with the baseline at planned looks, each until its first decision.

    Holm's method holds within a look. A variant that was found tied at an earlier look stays in
    the family; one that was found better or worse leaves it.

    Args:
        scores: Scores per variant in the order of the common bundles.
        baseline: The variant that the others are compared with.
        n_test: Size of the test split, None for a metric that is not an accuracy.
        margin: Largest difference that counts as a tie.
        looks: Increasing numbers of seeds after which the scores are looked at.
        levels: Level of each look; their sum is the family error rate.

    Returns:
        Per variant the word and the number of seeds it was found at: for an undecided variant
        the last look that the scores reach.

    """
    if len(looks) != len(levels) or list(looks) != sorted(set(looks)):
        raise ValueError("looks increase, and each has a level")
    open_ = _others(scores, baseline)
    available = min(len(scores[name]) for name in [baseline, *open_])
    decided: dict[str, tuple[Word, int]] = {}
    reached = available
    tied = 0
    for look, level in zip(looks, levels, strict=True):
        if look > available or not open_:
            break
        reached = look
        so_far = {name: values[:look] for name, values in scores.items()}
        words = _judge(so_far, open_, baseline, n_test, margin, level, len(open_) + tied)
        for name, found in words.items():
            if found != "underpowered":
                decided[name] = found, look
        tied += sum(found == "tied" for found in words.values())
        open_ = [name for name in open_ if name not in decided]
    undecided: tuple[Word, int] = ("underpowered", reached)
    return {name: decided.get(name, undecided) for name in _others(scores, baseline)}


def power(lead: float, sd: float, n: int, alpha: float) -> float:
    """Return the power of a two-sided paired t test.

    Args:
        lead: True mean difference.
        sd: Standard deviation of the differences.
        n: Number of common bundles.
        alpha: Level of the test; 0.05 divided by the number of comparisons on a board.

    """
    return _detection(lead, sd, n, alpha)


def seeds_needed(lead: float, sd: float, alpha: float, power: float = 0.8) -> float:
    """Return the least number of seeds, at least 3, whose test has this power.

    Args:
        lead: True mean difference; at 0 no number of seeds suffices, and the answer is infinite.
        sd: Standard deviation of the differences.
        alpha: Level of the test.
        power: Wanted probability of a decision.

    """
    if lead == 0:
        return math.inf
    low, high = 2, 3
    while _detection(lead, sd, high, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if _detection(lead, sd, middle, alpha) >= power else (middle, high)
        )
    return high


def detectable(sd: float, n: int, alpha: float, power: float = 0.8) -> float:
    """Return the least lead that a paired test on `n` bundles detects with this power."""
    if n < 2:
        return math.inf
    if sd == 0:
        return 0.0
    high = sd
    while _detection(high, sd, n, alpha) < power:
        high *= 2
    found = optimize.brentq(
        lambda lead: _detection(lead, sd, n, alpha) - power, 0.0, high, xtol=1e-13
    )
    return float(found)


def rank_sets(scores: Scores, n_test: int | None) -> dict[str, tuple[int, int]]:
    """Return the ranks of each variant that its comparisons do not exclude, 95 % for each row.

    Holm's method holds over the K - 1 comparisons of a row. The lowest rank is 1 + the number of
    variants significantly above, the highest K - the number significantly below.

    Args:
        scores: Scores per variant in the order of the common bundles.
        n_test: Size of the test split, None for a metric that is not an accuracy.

    """
    compared = {
        (a, b): paired(scores[a], scores[b], n_test, 0.0)
        for k, a in enumerate(scores)
        for b in list(scores)[k + 1 :]
        if _common(scores[a], scores[b]) >= 2
    }
    sets = {}
    for name in scores:
        own = {b if a == name else a: pair for (a, b), pair in compared.items() if name in (a, b)}
        lead = {
            other: pair.mean if (name, other) in compared else -pair.mean
            for other, pair in own.items()
        }
        p = holm({other: pair.p for other, pair in own.items()}, len(scores) - 1)
        above = sum(p[other] <= ALPHA and lead[other] < 0 for other in own)
        below = sum(p[other] <= ALPHA and lead[other] > 0 for other in own)
        sets[name] = 1 + above, len(scores) - below
    return sets


def over_tasks(diffs: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """Average paired differences over tasks, each task with equal weight.

    Satterthwaite's t interval; it speaks of these tasks, not of others.

    Args:
        diffs: Per task the paired differences of its bundles, at least two.

    Returns:
        The mean, the ends of its 95 % interval and the degrees of freedom.

    """
    values = [np.asarray(task, float) for task in diffs]
    if not values or any(len(task) < 2 for task in values):
        raise ValueError("each task needs two paired differences")
    v = np.array([task.var(ddof=1) / len(task) for task in values])
    mean = float(np.mean([task.mean() for task in values]))
    freedom = np.array([len(task) - 1 for task in values])
    total = float(v.sum())
    df = total**2 / float((v**2 / freedom).sum()) if total else float(freedom.sum())
    half = float(special.stdtrit(df, 0.975)) * math.sqrt(total) / len(values)
    return mean, mean - half, mean + half, df


def over_studies(diffs: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """Average paired differences over independent searches, by a t test on their means.

    In a balanced nested design this is the mixed-model test of a difference between variants.

    Args:
        diffs: Per search the paired differences of its own bundles.

    Returns:
        The mean, the ends of its 95 % interval and the two-sided p-value, with df = searches - 1.

    """
    means = np.array([np.mean(study) for study in diffs])
    if len(means) < 2:
        raise ValueError(f"a test over searches needs two of them, and there are {len(means)}")
    mean, se = float(means.mean()), float(means.std(ddof=1)) / math.sqrt(len(means))
    df = len(means) - 1
    half = float(special.stdtrit(df, 0.975)) * se
    return mean, mean - half, mean + half, 2 * float(special.stdtr(df, -abs(_ratio(mean, se))))


def over_images(a: ArrayLike, b: ArrayLike) -> tuple[float, float, float]:
    """Compare two variants on one test set that all seeds share, seeds and images both random.

    The variance of the crossed design is (MS_seed + MS_image - MS_rest) / (n N), and never below
    MS_seed / (n N).

    Args:
        a: Correctness of the first variant, 0 or 1, shape (seeds, images).
        b: Correctness of the second variant, same shape.

    Returns:
        The mean difference, its standard error, and the standard error of the seeds alone.

    """
    d = np.asarray(a, float) - np.asarray(b, float)
    if d.ndim != 2 or min(d.shape) < 2:
        raise ValueError("correctness has shape (seeds, images), with two of each at least")
    n, images = d.shape
    mean, of_seed, of_image = d.mean(), d.mean(axis=1), d.mean(axis=0)
    ms_seed = images * float(((of_seed - mean) ** 2).sum()) / (n - 1)
    ms_image = n * float(((of_image - mean) ** 2).sum()) / (images - 1)
    rest = d - of_seed[:, None] - of_image[None, :] + mean
    ms_rest = float((rest**2).sum()) / ((n - 1) * (images - 1))
    of_seeds = ms_seed / (n * images)
    variance = max((ms_seed + ms_image - ms_rest) / (n * images), of_seeds)
    return float(mean), math.sqrt(variance), math.sqrt(of_seeds)


def e_value(t: float, n: int) -> float:
    """Return the e-value of a paired t statistic, valid at any n chosen in any way.

    With m comparisons, r of them rejected so far, reject where it is at least (m - r) / 0.05.

    Args:
        t: Student's t statistic of the n paired differences.
        n: Number of common bundles, at least 2.

    """
    if n < 2:
        return 1.0
    square = t * t / (n - 1)
    if math.isinf(square):
        return math.inf
    log = -math.log1p(n) / 2 + n / 2 * (math.log1p(square) - math.log1p(square / (1 + n)))
    return math.exp(log) if log < 700 else math.inf


def _others(scores: Scores, baseline: str) -> list[str]:
    if baseline not in scores:
        raise ValueError(f"the baseline {baseline!r} has no scores; there are {', '.join(scores)}")
    return [name for name in scores if name != baseline]


def _judge(
    scores: Scores,
    compared: Sequence[str],
    baseline: str,
    n_test: int | None,
    margin: float,
    alpha: float,
    family: int | None = None,
) -> dict[str, Word]:
    pairs = {
        name: paired(scores[name], scores[baseline], n_test, margin)
        for name in compared
        if _common(scores[name], scores[baseline]) >= 2
    }
    family = len(compared) if family is None else family
    adjusted = holm({name: pair.p for name, pair in pairs.items()}, family)
    words: dict[str, Word] = {}
    for name in compared:
        pair = pairs.get(name)
        words[name] = word(pair, adjusted[name], alpha) if pair else "underpowered"
    return words


def _common(x: Sequence[float], y: Sequence[float]) -> int:
    return int((np.isfinite(np.asarray(x, float)) & np.isfinite(np.asarray(y, float))).sum())


def _ratio(value: float, error: float) -> float:
    if error:
        return value / error
    return math.copysign(math.inf, value) if value else 0.0


def _detection(lead: float, sd: float, n: int, alpha: float) -> float:
    if n < 2:
        return 0.0
    if sd == 0:
        return float(lead != 0)
    noncentrality = abs(lead) / sd * math.sqrt(n)
    critical = special.stdtrit(n - 1, 1 - alpha / 2)
    missed = float(special.nctdtr(n - 1, noncentrality, critical))
    if math.isnan(missed):
        # Beyond the reach of scipy's noncentral t the normal approximation is close enough.
        missed = float(special.ndtr(critical - noncentrality))
    return 1 - missed
