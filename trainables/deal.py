"""Chance in data: who is dealt which images, and which labels are wrong. Seeded, and exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def deal(labels: Rows, sizes: Sequence[int], rng: np.random.Generator) -> list[Rows]:
    """Deals all rows of `labels` (N,) to parts of `sizes`, which add up to N.

    Each part has exactly its size, and of each class its share within one image; rows ascend.
    """
    wanted = np.array(sizes)
    held = np.bincount(labels)
    counts = held[:, None] * wanted // wanted.sum()
    missing = wanted - counts.sum(axis=0)
    parts: list[list[Rows]] = [[] for _ in sizes]
    for label, count in enumerate(counts):
        # What flooring left over goes to the splits that lack most, at most one a class.
        lacking = np.argsort(-missing, kind="stable")[: held[label] - count.sum()]
        count[lacking] += 1
        missing[lacking] -= 1
        members = rng.permutation(np.flatnonzero(labels == label))
        for part, drawn in zip(parts, np.split(members, count.cumsum()[:-1]), strict=True):
            part.append(drawn)
    return [np.sort(np.concatenate(part)) for part in parts]


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
