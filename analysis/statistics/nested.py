"""Comparisons over tasks, over searches, and over the images of a shared test set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from analysis.statistics.pairs import ratio


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
    return over_task_means(
        [float(task.mean()) for task in values],
        [math.sqrt(task.var(ddof=1) / len(task)) for task in values],
        [len(task) for task in values],
    )


def over_task_means(
    means: Sequence[float], errors: Sequence[float], n: Sequence[int]
) -> tuple[float, float, float, float]:
    """Average the mean differences of tasks as `over_tasks` does.

    Args:
        means: The mean difference of each task.
        errors: Its standard error.
        n: The number of differences that it is the mean of, at least two.

    """
    v, freedom = np.asarray(errors, float) ** 2, np.asarray(n) - 1
    mean, total = float(np.mean(means)), float(v.sum())
    df = total**2 / float((v**2 / freedom).sum()) if total else float(freedom.sum())
    half = float(special.stdtrit(df, 0.975)) * math.sqrt(total) / len(v)
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
    return mean, mean - half, mean + half, 2 * float(special.stdtr(df, -abs(ratio(mean, se))))


def between_searches(values: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation between searches, the part of the seeds taken off.

    It is sqrt(max(0, var(means) - mean(s_i^2 / n_i))) over the searches i, with ddof 1: the seeds
    alone make the means of searches differ by s_i^2 / n_i.

    Args:
        values: Per search the values of its repeats, at least two, for two searches or more.

    """
    found = [np.asarray(search, float) for search in values]
    if len(found) < 2 or any(len(search) < 2 for search in found):
        raise ValueError("a deviation between searches needs two of them, with two values each")
    means = np.array([search.mean() for search in found])
    within = np.mean([search.var(ddof=1) / len(search) for search in found])
    return math.sqrt(max(0.0, float(means.var(ddof=1) - within)))


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
    d = _differences(a, b)
    variance, of_seeds, _ = _crossed(d)
    return float(d.mean()), math.sqrt(variance), math.sqrt(of_seeds)


def images_test(a: ArrayLike, b: ArrayLike) -> tuple[float, float, float, float]:
    """Test the mean difference of `over_images` by Student's t, as if new images were drawn too.

    The degrees of freedom are Satterthwaite's for the sum of the three mean squares, those of the
    seeds where these alone make the variance.

    Args:
        a: Correctness of the first variant, shape (seeds, images); of searches, the share of a
            search's seeds that are right.
        b: Correctness of the second variant, same shape.

    Returns:
        The mean difference, the ends of its 95 % interval and the two-sided p-value.

    """
    d = _differences(a, b)
    variance, _, df = _crossed(d)
    mean, se = float(d.mean()), math.sqrt(variance)
    half = float(special.stdtrit(df, 0.975)) * se
    return mean, mean - half, mean + half, 2 * float(special.stdtr(df, -abs(ratio(mean, se))))


def _differences(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    d: NDArray[np.float64] = np.asarray(a, float) - np.asarray(b, float)
    if d.ndim != 2 or min(d.shape) < 2:
        raise ValueError("correctness has shape (seeds, images), with two of each at least")
    return d


def _crossed(d: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the variance of the mean, that of the seeds alone, and the degrees of freedom."""
    n, images = d.shape
    mean, of_seed, of_image = d.mean(), d.mean(axis=1), d.mean(axis=0)
    ms_seed = images * float(((of_seed - mean) ** 2).sum()) / (n - 1)
    ms_image = n * float(((of_image - mean) ** 2).sum()) / (images - 1)
    rest = d - of_seed[:, None] - of_image[None, :] + mean
    ms_rest = float((rest**2).sum()) / ((n - 1) * (images - 1))
    total = ms_seed + ms_image - ms_rest
    if ms_image <= ms_rest:
        return ms_seed / (n * images), ms_seed / (n * images), n - 1
    spread = ms_seed**2 / (n - 1) + ms_image**2 / (images - 1)
    spread += ms_rest**2 / ((n - 1) * (images - 1))
    return total / (n * images), ms_seed / (n * images), total**2 / spread
