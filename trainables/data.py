"""Data sets as resident uint8 tensors, split so that a search cannot see the test images.

`load` gives a search trial its training and validation images and nothing else; `open_test` is
the only way to the test images and asks for a permit. Both depend on `split_seed` alone: equal
seeds give equal splits and equal label noise in every process.

Sources: `digits` is UCI's Optical Recognition of Handwritten Digits (CC BY 4.0), see DIGITS.md.
"""

from __future__ import annotations

import difflib
import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samtune.trial import Value

DIGITS = Path(__file__).with_name("digits.npz")
DIGITS_SHA256 = "bf2a91a17bbb5da171ba3245cb578a7d5bf574eb8607fb98d25a3e53060d8f02"


class DataError(ValueError):
    """A data set is missing, damaged or misnamed, or the test split was asked for in vain."""


@dataclass(frozen=True)
class Source:
    """A whole data set: images uint8 (N, C, H, W), labels int64 (N,), sizes of the three splits.

    `sha256` is that of the file it was read from.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    sizes: Mapping[str, int]
    sha256: str


@dataclass(frozen=True)
class Split:
    """images uint8 (N, C, H, W), labels int64 (N,)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class TrainVal:
    """All that a search trial gets. `mean` and `std` (C,) are those of the training pixels.

    Training labels carry the task's label noise, validation labels are clean.
    """

    train: Split
    val: Split
    classes: int
    mean: Tensor
    std: Tensor
    name: str
    sha256: str


@cache
def _digits() -> Source:
    try:
        raw = DIGITS.read_bytes()
    except OSError as error:
        raise DataError(
            f"the data set digits cannot be read: {error}; it is part of samtune, reinstall it"
        ) from error
    sha256 = hashlib.sha256(raw).hexdigest()
    if sha256 != DIGITS_SHA256:
        raise DataError(
            f"{DIGITS} is damaged: its SHA-256 is {sha256}, not {DIGITS_SHA256}; "
            "it is part of samtune, reinstall it"
        )
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int64)
    return Source(images, labels, {"train": 1000, "val": 297, "test": 500}, sha256)


DATASETS: dict[str, Callable[[], Source]] = {"digits": _digits}


def load(task: Mapping[str, Value], split_seed: int) -> TrainVal:
    """Training and validation images of `task["dataset"]`, drawn by `split_seed`.

    `task["label_noise"]` (default 0) is the share of training labels redrawn uniformly over all
    classes, so that with ten classes 0.4 makes 36 % of them wrong.

    Raises DataError for an unknown or damaged data set, or a share outside 0 to 1.
    """
    noise = float(task.get("label_noise", 0.0))
    if not 0 <= noise <= 1:
        raise DataError(f"label_noise is {noise}, but a share of labels lies from 0 to 1")
    return _train_val(_name(task), noise, split_seed)


def open_test(task: Mapping[str, Value], split_seed: int, permit: str | None) -> Split:
    """The test images that belong to `load(task, split_seed)`; labels are clean.

    `permit` names the logged permission, which only confirmed repeats have. Raises DataError
    without one.
    """
    if not permit or not permit.strip():
        raise DataError(
            "the test split opens with a permit only, so that nothing is tuned on it; "
            "`samtune confirm` gives one to each repeat of the chosen configuration"
        )
    name = _name(task)
    source = DATASETS[name]()
    return _take(source, _deal(name, split_seed)["test"])


# Workers are warm: the next trial of a sweep often asks for the split of the last one.
@lru_cache(maxsize=8)
def _train_val(name: str, noise: float, split_seed: int) -> TrainVal:
    source = DATASETS[name]()
    dealt = _deal(name, split_seed)
    train = _take(source, dealt["train"])
    classes = int(source.labels.max()) + 1
    _redraw(train.labels, noise, classes, np.random.default_rng((split_seed, 1)))
    pixels = train.images.double()
    return TrainVal(
        train=train,
        val=_take(source, dealt["val"]),
        classes=classes,
        mean=pixels.mean(dim=(0, 2, 3)).float(),
        std=pixels.std(dim=(0, 2, 3)).float(),
        name=name,
        sha256=source.sha256,
    )


def _deal(name: str, split_seed: int) -> dict[str, NDArray[np.int64]]:
    """Indices of each split: exact sizes, and each class within one image of its share."""
    source = DATASETS[name]()
    rng = np.random.default_rng((split_seed, 0))
    sizes = np.array(list(source.sizes.values()))
    held = np.bincount(source.labels)
    counts = held[:, None] * sizes // sizes.sum()
    missing = sizes - counts.sum(axis=0)
    parts: list[list[NDArray[np.int64]]] = [[] for _ in sizes]
    for label, count in enumerate(counts):
        # What flooring left over goes to the splits that lack most, at most one a class.
        lacking = np.argsort(-missing, kind="stable")[: held[label] - count.sum()]
        count[lacking] += 1
        missing[lacking] -= 1
        members = rng.permutation(np.flatnonzero(source.labels == label))
        for part, drawn in zip(parts, np.split(members, count.cumsum()[:-1]), strict=True):
            part.append(drawn)
    return {
        split: np.sort(np.concatenate(part))
        for split, part in zip(source.sizes, parts, strict=True)
    }


def _take(source: Source, index: NDArray[np.int64]) -> Split:
    return Split(torch.from_numpy(source.images[index]), torch.from_numpy(source.labels[index]))


def _redraw(labels: Tensor, share: float, classes: int, rng: np.random.Generator) -> None:
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    labels[torch.from_numpy(chosen)] = torch.from_numpy(rng.integers(0, classes, len(chosen)))


def _name(task: Mapping[str, Value]) -> str:
    name = task.get("dataset", "digits")
    if name not in DATASETS:
        near = difflib.get_close_matches(str(name), DATASETS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there is: {', '.join(DATASETS)}"
        raise DataError(f"unknown data set {name!r}; {hint}")
    return str(name)
