"""One comparison of two variants by a paired t test, and Holm's correction of several."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from scipy import special

Word = Literal["better", "worse", "tied", "underpowered"]
Scores = Mapping[str, Sequence[float]]
Name = TypeVar("Name", bound=Hashable)

ALPHA = 0.05
"""The family error rate of a board, and the level of each test for a tie."""


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
    t, to_margin = ratio(mean, se), ratio(abs(mean) - margin, se)
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


def holm(p: Mapping[Name, float], family: int | None = None) -> dict[Name, float]:
    """Return Holm's adjusted p-values.

    Args:
        p: P-value of each hypothesis.
        family: Number of hypotheses in the family, at least `len(p)`; None for `len(p)`. It is
            larger where a hypothesis is not tested any more but still counts.

    """
    family = len(p) if family is None else family
    if family < len(p):
        raise ValueError(f"a family of {family} cannot hold {len(p)} hypotheses")
    adjusted: dict[Name, float] = {}
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


def common(x: Sequence[float], y: Sequence[float]) -> int:
    """Return the number of bundles that both variants completed."""
    return int((np.isfinite(np.asarray(x, float)) & np.isfinite(np.asarray(y, float))).sum())


def ratio(value: float, error: float) -> float:
    """Return a t statistic, infinite where a difference has no error."""
    if error:
        return value / error
    return math.copysign(math.inf, value) if value else 0.0
