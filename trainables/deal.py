"""Chance in data: who is dealt which images, and which labels are wrong. Seeded, and exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def deal(labels: Rows, sizes: Sequence[int], rng: np.random.Generator) -> list[Rows]:
    """Deal all rows of `labels` (N,) to parts of `sizes`, which add up to N.

    Each part has exactly its size and, within one image, its share of each class; rows ascend. The
    first part is for training: it has an image of every class if its size allows that.
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
    """Return the images per class and part, for `held` (classes,) and `wanted` (parts,) images."""
    counts: Rows = held[:, None] * wanted // wanted.sum()
    missing = wanted - counts.sum(axis=0)
    for label, count in enumerate(counts):
        # What flooring left over goes to the parts that lack most, at most one per class.
        lacking = np.argsort(-missing, kind="stable")[: held[label] - count.sum()]
        count[lacking] += 1
        missing[lacking] -= 1
    return counts


def _give_every_class_to_the_first(counts: Rows) -> None:
    """Exchange an image of the largest class for each class that part 0 lacks, in place."""
    for count in counts:
        largest = counts[:, 0].argmax()
        if not count[0] and count.any() and counts[largest, 0] > 1:
            other = count.argmax()
            count[[0, other]] += 1, -1
            counts[largest, [0, other]] += -1, 1


def redraw(labels: Rows, share: float, classes: int, rng: np.random.Generator) -> None:
    """Symmetric noise, in place: a share of the labels is drawn anew, uniformly over all classes.

    The draw may hit the right class: with ten classes a share of 0.4 makes 36 % wrong.
    """
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    labels[chosen] = rng.integers(0, classes, len(chosen))


def flip(labels: Rows, share: float, becomes: Sequence[int], rng: np.random.Generator) -> None:
    """Asymmetric noise, in place: of each class, a share of the labels becomes another class's.

    Class c is taken for class `becomes[c]`; one that is taken for itself stays clean.
    """
    clean = labels.copy()
    for label, other in enumerate(becomes):
        members = rng.permutation(np.flatnonzero(clean == label))
        labels[members[: round(share * len(members))]] = other
