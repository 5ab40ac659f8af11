"""Random choices in data, seeded and exact: the images of a part, and the wrong labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def split_by_class(labels: Rows, sizes: Sequence[int], rng: np.random.Generator) -> list[Rows]:
    """Split the rows of `labels` at random into parts with the same shares of each class.

    Args:
        labels: shape (N,).
        sizes: rows per part, N together.
        rng: generator of the choice.

    Returns:
        The rows of each part in ascending order. Of each class a part has its share, rounded to
        a whole number of rows. The first part is for training: it has a row of every class if its
        size allows that.
    """
    counts = _counts(np.bincount(labels), np.array(sizes))
    _give_every_class_to_the_first(counts)
    parts: list[list[Rows]] = [[] for _ in sizes]
    for label, count in enumerate(counts):
        members = rng.permutation(np.flatnonzero(labels == label))
        for part, drawn in zip(parts, np.split(members, count.cumsum()[:-1]), strict=True):
            part.append(drawn)
    return [np.sort(np.concatenate(part)) for part in parts]


def _counts(held: Rows, wanted: Rows) -> Rows:
    """Return the rows per class and part, for `held` (classes,) and `wanted` (parts,) rows."""
    counts: Rows = held[:, None] * wanted // wanted.sum()
    missing = wanted - counts.sum(axis=0)
    for label, count in enumerate(counts):
        # What rounding down left over goes to the parts that lack most, at most one per class.
        lacking = np.argsort(-missing, kind="stable")[: held[label] - count.sum()]
        count[lacking] += 1
        missing[lacking] -= 1
    return counts


def _give_every_class_to_the_first(counts: Rows) -> None:
    """Exchange a row of the largest class for a row of each class that part 0 lacks, in place."""
    for count in counts:
        largest = counts[:, 0].argmax()
        if not count[0] and count.any() and counts[largest, 0] > 1:
            other = count.argmax()
            count[[0, other]] += 1, -1
            counts[largest, [0, other]] += -1, 1


def add_symmetric_noise(
    labels: Rows, share: float, classes: int, rng: np.random.Generator
) -> None:
    """Draw a share of the labels anew, uniformly over all classes, in place.

    A draw may hit the right class: with ten classes a share of 0.4 makes 36 % of the labels wrong.
    """
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    labels[chosen] = rng.integers(0, classes, len(chosen))


def add_asymmetric_noise(
    labels: Rows, share: float, becomes: Sequence[int], rng: np.random.Generator
) -> None:
    """Give a share of the labels of each class c the class `becomes[c]`, in place.

    A class that becomes itself stays clean.
    """
    clean = labels.copy()
    for label, other in enumerate(becomes):
        members = rng.permutation(np.flatnonzero(clean == label))
        labels[members[: round(share * len(members))]] = other
