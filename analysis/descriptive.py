"""Descriptive statistics of searches, tasks and rungs; none of them decides a verdict.

Scores are oriented so that larger is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

FEWEST_TASKS = 5


@dataclass(frozen=True)
class Share:
    """A share of cases with its 95 % interval."""

    share: float
    lo: float
    hi: float


@dataclass(frozen=True)
class Friedman:
    """Friedman's test of equal ranks over tasks."""

    mean_ranks: dict[str, float]
    statistic: float
    p: float


def wilson(successes: int, n: int) -> Share:
    """Return a share with its Wilson interval (no continuity correction)."""
    # `scipy.stats.binomtest` has it too, but takes a second to import.
    share, z = successes / n, float(special.ndtri(0.975))
    centre, scale = share + z * z / (2 * n), 1 + z * z / n
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    low, high = (centre - half) / scale, (centre + half) / scale
    return Share(share, low if successes else 0.0, high if successes < n else 1.0)


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean of the middle half of the values.

    It has no interval here: a stratified bootstrap over 3 to 10 seeds covers only 80 to 93 %.
    """
    from scipy import stats

    return float(stats.trim_mean(np.asarray(values, float), 0.25))


def expected_best(values: Sequence[float], n: int) -> float:
    """Return the expected best of `n` trials drawn from those of a search.

    V(n) = sum_i v_(i) [(i/N)^n - ((i-1)/N)^n] (Dodge et al., 2021).

    Args:
        values: Final scores of all trials, all at one fidelity, one at least. They must have been
            drawn independently of each other, as by `random` and `sobol`.
        n: Number of trials drawn.

    """
    ordered = np.sort(np.asarray(values, float))
    shares = np.arange(len(ordered) + 1) / len(ordered)
    return float(ordered @ np.diff(shares**n))


def share_within(values: Sequence[float], tolerance: float = 0.01) -> Share:
    """Return the share of configurations within `tolerance` of the best (Wilson interval)."""
    scores = np.asarray(values, float)
    return wilson(int((scores >= scores.max() - tolerance).sum()), len(scores))


@dataclass(frozen=True)
class Plateau:
    """The radius of the best score, and the radii around it that do almost as well."""

    star: float
    lo: float
    hi: float

    @property
    def decades(self) -> float:
        """The width log10(hi / lo)."""
        return math.log10(self.hi / self.lo)


def plateau(
    rho: Sequence[float], values: Sequence[float], tolerance: float = 0.01, bins: int = 12
) -> Plateau:
    """Return the radii whose best score stays within `tolerance` of the best.

    The radii are put into `bins` bins of equal width in log10 rho. The profile is the best score
    per bin, over all other knobs. The plateau is the run of bins around the best one; an empty
    bin ends it.

    Args:
        rho: Radius of each configuration, above 0.
        values: Score of each configuration.
        tolerance: Largest distance from the best score.
        bins: Number of bins.

    """
    logs, scores = np.log10(np.asarray(rho, float)), np.asarray(values, float)
    edges = np.linspace(logs.min(), logs.max(), bins + 1)
    place = np.clip(np.digitize(logs, edges) - 1, 0, bins - 1)
    profile = np.array([scores[place == b].max(initial=-math.inf) for b in range(bins)])
    inside = profile >= scores.max() - tolerance
    low = high = int(profile.argmax())
    while low > 0 and inside[low - 1]:
        low -= 1
    while high < bins - 1 and inside[high + 1]:
        high += 1
    star = float(rho[int(scores.argmax())])
    return Plateau(star, float(10 ** edges[low]), float(10 ** edges[high + 1]))


def transfer_regret(scores: Mapping[str, Mapping[str, float]], chosen_on: str) -> float:
    """Return the mean loss on the other tasks of the configuration chosen on one task.

    Args:
        scores: Per task the score of each configuration; all tasks have the same configurations.
        chosen_on: The task on which the configuration is chosen.

    """
    configuration = max(scores[chosen_on], key=lambda name: scores[chosen_on][name])
    losses = [
        max(own.values()) - own[configuration] for task, own in scores.items() if task != chosen_on
    ]
    if not losses:
        raise ValueError("a transfer needs another task")
    return float(np.mean(losses))


def rung_fidelity(at_rung: Sequence[float], final: Sequence[float]) -> float | None:
    """Return Spearman's correlation of the scores at a rung with the final ones.

    None for fewer than three trials, or where all scores of one side are equal.
    """
    from scipy import stats

    if len(at_rung) < 3 or len(set(at_rung)) == 1 or len(set(final)) == 1:
        return None
    return float(stats.spearmanr(at_rung, final).statistic)


def wrong_stops(audited: Sequence[float], best_kept: float) -> Share:
    """Return the share of stopped trials that would have beaten the winner.

    Args:
        audited: Final scores of the stopped trials that an audit trained to the end.
        best_kept: Final score of the winner.

    Returns:
        The share with its exact (Clopper-Pearson) 95 % interval.

    """
    from scipy import stats

    wrong = sum(value > best_kept for value in audited)
    found = stats.binomtest(wrong, len(audited)).proportion_ci(method="exact")
    return Share(wrong / len(audited), float(found.low), float(found.high))


def performance_profile(
    cost: Mapping[str, Sequence[float]], largest: float = 4.0
) -> dict[str, float]:
    """Return each variant's area under its performance profile, from 0 to 1.

    The profile of a variant is the share of tasks that it solves within tau times the least cost
    of any variant; the area is over tau from 1 to `largest`, exact for the step function.

    Args:
        cost: Per variant the cost (see or seconds) to the target on each task; infinite where it
            misses the target.
        largest: Largest tau.

    """
    table = np.array([np.asarray(costs, float) for costs in cost.values()])
    least = table.min(axis=0)
    with np.errstate(invalid="ignore"):
        ratio = np.where(np.isinf(table), math.inf, table / least)
    areas = np.clip(largest - ratio, 0.0, largest - 1) / (largest - 1)
    return dict(zip(cost, areas.mean(axis=1).tolist(), strict=True))


def friedman(scores: Mapping[str, Sequence[float]]) -> Friedman:
    """Test by Friedman's ranks whether variants differ over tasks.

    Args:
        scores: Per variant its score on each task, for three variants or more.

    Raises:
        ValueError: There are fewer than five tasks; the test has no power there.

    """
    from scipy import stats

    tasks = min(len(values) for values in scores.values())
    if tasks < FEWEST_TASKS:
        raise ValueError(
            f"Friedman's test needs {FEWEST_TASKS} tasks, and there are {tasks}; "
            "compare the variants per task"
        )
    table = np.array([np.asarray(values, float) for values in scores.values()])
    ranks = stats.rankdata(-table, axis=0).mean(axis=1)
    found = stats.friedmanchisquare(*table)
    return Friedman(
        dict(zip(scores, ranks.tolist(), strict=True)), float(found.statistic), float(found.pvalue)
    )


def kendall_in_bins(
    sharpness: Sequence[float], scores: Sequence[float], lr: Sequence[float], bins: int = 4
) -> list[tuple[float, float, int, float | None]]:
    """Return Kendall's tau of sharpness and score within bins of the learning rate.

    Sharpness follows the learning rate more than generalisation does (Andriushchenko et al.,
    2023), so a correlation over all trials says little.

    Args:
        sharpness: Sharpness of each trial.
        scores: Score of each trial.
        lr: Learning rate of each trial, above 0.
        bins: Number of bins with about equally many trials.

    Returns:
        Per bin its lowest and highest learning rate, the number of trials, and tau; None where a
        bin has fewer than three trials or one side is constant.

    """
    from scipy import stats

    order = np.argsort(np.asarray(lr, float), kind="stable")
    x, y, rates = (np.asarray(values, float)[order] for values in (sharpness, scores, lr))
    found = []
    for part in np.array_split(np.arange(len(order)), bins):
        if not len(part):
            continue
        constant = np.ptp(x[part]) == 0 or np.ptp(y[part]) == 0
        tau = None
        if len(part) >= 3 and not constant:
            tau = float(stats.kendalltau(x[part], y[part]).statistic)
        found.append((float(rates[part[0]]), float(rates[part[-1]]), len(part), tau))
    return found
