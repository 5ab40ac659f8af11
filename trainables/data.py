"""The data of a trial: a data set, split so that a search cannot see the test images.

`load` returns the training and validation images of a search trial and nothing else. `open_test`
is the only way to the test images, and needs a permit. Both depend on the task and `split_seed`
alone: equal seeds give equal splits and equal label noise in every process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from samtune.optimizers.knobs import nearest
from samtune.trial import Value, warn
from trainables.data_task import TASK, DataTask, Size, split_words
from trainables.datasets import DataError, Part, Source, WordError, corrupted, find, is_ready
from trainables.datasets.decode import Encoded
from trainables.datasets.labels import confusions
from trainables.sampling import Rows, add_asymmetric_noise, add_symmetric_noise, split_by_class
from trainables.split import Split, Streamed

__all__ = [
    "TASK",
    "DataError",
    "Split",
    "TrainVal",
    "digest",
    "doubts",
    "load",
    "make_ready",
    "open_test",
]

# A tenth of the official training images is for validation unless the task or the set says else.
_VAL_SIZE = Size(0.1, is_count=False)
# Below this an accuracy of 50 % has a standard error above 3.5 points.
_FEW = 200


@dataclass(frozen=True)
class TrainVal:
    """The data of a search trial.

    Attributes:
        train: The training images; their labels carry the task's label noise.
        val: The validation images; their labels are clean.
        classes: The number of classes.
        mean: The mean of the training pixels per channel, of shape (C,).
        std: Their standard deviation, of shape (C,).
        name: The data set's name.
        sha256: The hash of the whole data set.
    """

    train: Split
    val: Split
    classes: int
    mean: Tensor
    std: Tensor
    name: str
    sha256: str


def make_ready(task: Mapping[str, Value]) -> tuple[tuple[int, int, int], int]:
    """Map the images of a folder and check the task; run once, before all trials.

    Returns:
        The shape of an image (C, H, W) and the number of classes.

    Raises:
        DataError: No trial could have its data: the set is missing or damaged, or it lacks a class
            or the number of images that the task names.
    """
    wanted = DataTask.of(task)
    source = find(wanted.dataset, wanted.image_size)
    kept = _kept(source, wanted.classes)
    if wanted.corruption != "none":
        corrupted(source, wanted.corruption, wanted.severity)
    # The sizes of the splits are the same for every seed.
    _dealt(source, wanted, kept, split_seed=0)
    channels, height, width = source.parts["train"].images.shape[-3:]
    return (channels, height, width), len(kept)


def load(task: Mapping[str, Value], split_seed: int) -> TrainVal:
    """Return the training and validation images of a task, drawn by `split_seed`.

    Only the words of TASK are used; missing ones have their defaults.

    Raises:
        DataError: A word has a value that it cannot have, or the set is missing or damaged.
    """
    data, warnings = _train_val(DataTask.of(task), split_seed)
    for warning in warnings:
        warn(warning)
    return data


def doubts(task: Mapping[str, Value], split_seed: int) -> list[str]:
    """Return warnings about the splits of a task; [] if its data is not ready yet.

    Raises:
        DataError: As `load`.
    """
    wanted = DataTask.of(task)
    ready = is_ready(wanted.dataset, wanted.image_size)
    return _train_val(wanted, split_seed)[1] if ready else []


def open_test(task: Mapping[str, Value], split_seed: int, permit: str | None) -> Split:
    """Return the test images that belong to `load(task, split_seed)`; their labels are clean.

    Args:
        task: The words of the task.
        split_seed: The seed of the splits.
        permit: The name of the recorded permission, which only confirmed repeats have.

    Raises:
        DataError: There is no permit, or no such data.
    """
    if not permit or not permit.strip():
        raise DataError(
            "the test split opens with a permit only, so that nothing is tuned on it; "
            "`samtune confirm` gives one to each repeat of the chosen configuration"
        )
    return _test(DataTask.of(task), split_seed)


def digest(test: Split, task: Mapping[str, Value], sha256: str) -> str:
    """Return a digest of a test split: equal where two trials are tested on the same images.

    Args:
        test: The test images, as `open_test` returns them.
        task: The words of the task.
        sha256: The hash of the whole data set.
    """
    wanted = DataTask.of(task)
    about = f"{sha256} {wanted.corruption} {wanted.severity}"
    found = hashlib.sha256(about.encode())
    for numbers in (test.rows, test.labels):
        found.update(numbers.cpu().numpy().tobytes())
    return found.hexdigest()[:16]


# Workers are reused: the next trial of a sweep often needs the split of the last one.
@lru_cache(maxsize=8)
def _train_val(wanted: DataTask, split_seed: int) -> tuple[TrainVal, list[str]]:
    """Return the splits, and warnings about them in sentences."""
    source = find(wanted.dataset, wanted.image_size)
    kept = _kept(source, wanted.classes)
    train, val, _ = _dealt(source, wanted, kept, split_seed)
    names = [source.class_names[label] for label in kept]
    warnings = _doubts(train, val, names)
    noise, rng = wanted.label_noise, np.random.default_rng((split_seed, 1))
    # A copy: validation and the next trial's split share the clean labels.
    labels = train.labels.numpy().copy()
    if wanted.label_noise_kind == "symmetric":
        add_symmetric_noise(labels, noise, len(kept), rng)
    else:
        add_asymmetric_noise(labels, noise, confusions(names), rng)
    train = dataclasses.replace(train, labels=torch.from_numpy(labels))
    mean, std = _statistics(source, train)
    data = TrainVal(train, val, len(kept), mean, std, source.name, source.sha256)
    return data, warnings


@lru_cache(maxsize=2)
def _test(wanted: DataTask, split_seed: int) -> Split:
    source = find(wanted.dataset, wanted.image_size)
    kept = _kept(source, wanted.classes)
    if wanted.corruption != "none":
        part = corrupted(source, wanted.corruption, wanted.severity)
        return _of_classes(_whole(part), kept)
    return _dealt(source, wanted, kept, split_seed)[2]


def _dealt(
    source: Source, wanted: DataTask, kept: Sequence[int], split_seed: int
) -> tuple[Split, Split, Split]:
    """Return training, validation and test images of the kept classes, with clean labels."""
    train, val, test = _searched(source, wanted, kept, split_seed)
    if not wanted.train_size.is_count and wanted.train_size.value == 1:
        return train, val, test
    size = wanted.train_size.count(len(train))
    if size > len(train):
        raise WordError(
            f"train_size is {size}, and {source.name} has {len(train)} training images to take "
            "from; give a smaller count, or a share such as 0.5"
        )
    if size < len(kept):
        hint = "; for all of them write 1.0" if wanted.train_size == Size(1, True) else ""
        raise WordError(
            f"train_size {wanted.train_size} leaves {size} of {len(train)} training images "
            f"for {len(kept)} classes; there must be one per class{hint}"
        )
    rng = np.random.default_rng((split_seed, 3))
    used = split_by_class(train.labels.numpy(), (size, len(train) - size), rng)[0]
    return _only(train, used), val, test


def _searched(
    source: Source, wanted: DataTask, kept: Sequence[int], split_seed: int
) -> tuple[Split, Split, Split]:
    """Return all training, validation and test images of the kept classes.

    Which images are for test does not depend on `val_size`.
    """
    pool, own, test = _official(source, split_seed)
    pool, test = _of_classes(pool, kept), _of_classes(test, kept)
    if own is not None and not wanted.val_size:
        train, val = (_of_classes(split, kept) for split in own)
        return train, val, test
    val_size = wanted.val_size or _VAL_SIZE
    held = max(1, val_size.count(len(pool)))
    classes = len(np.unique(pool.labels.numpy()))
    if len(pool) - held < classes:
        raise WordError(
            f"val_size {val_size} takes {held} of {len(pool)} training images of {source.name}, "
            f"which leaves too few for its {classes} classes; there must be one per class"
        )
    rng = np.random.default_rng((split_seed, 2))
    rows = split_by_class(pool.labels.numpy(), (len(pool) - held, held), rng)
    return _only(pool, rows[0]), _only(pool, rows[1]), test


def _official(source: Source, split_seed: int) -> tuple[Split, tuple[Split, Split] | None, Split]:
    """Return the images to search on, the set's own training and validation split, and test.

    The set's own split is None if the set has no validation images of its own.
    """
    part = source.parts["train"]
    pool = _whole(part)
    if "test" in source.parts:
        own = (pool, _whole(source.parts["val"])) if "val" in source.parts else None
        return pool, own, _whole(source.parts["test"])
    assert source.sizes is not None, "a set without official test images needs sizes"
    rng = np.random.default_rng((split_seed, 0))
    train, val, test = split_by_class(part.labels, tuple(source.sizes.values()), rng)
    # Copied, so that the store that a search trial holds has no test image in it.
    searched = np.sort(np.concatenate([train, val]))
    store = _copied(pool, searched)
    places = (np.searchsorted(searched, rows) for rows in (train, val))
    own = _only(store, next(places)), _only(store, next(places))
    return store, own, _copied(pool, test)


def _doubts(train: Split, val: Split, names: Sequence[str]) -> list[str]:
    """Return warnings about a validation split that is small or lacks classes."""
    found = []
    if len(val) < _FEW:
        error, error_at_90 = (100 * math.sqrt(p * (1 - p) / len(val)) for p in (0.5, 0.9))
        found.append(
            f"validation has {len(val)} images: the standard error of an accuracy of 50 % is "
            f"{error:.1f} points, of 90 % {error_at_90:.1f}; smaller differences are chance. "
            "task.val_size gives it more images"
        )
    trained, validated = (split.labels.bincount(minlength=len(names)) for split in (train, val))
    lacking = [label for label, count in enumerate(validated.tolist()) if not count]
    if lacking:
        some = ", ".join(f"{names[label]!r} ({trained[label]})" for label in lacking[:5])
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        found.append(
            "validation has no image of these classes (in brackets: their training images), so "
            f"a search cannot see how well they are learnt: {some}{more}"
        )
    return found


def _whole(part: Part) -> Split:
    labels = torch.from_numpy(part.labels)
    rows = torch.arange(len(labels))
    if isinstance(part.images, Encoded):
        return Streamed(
            torch.empty((0, *part.images.shape), dtype=torch.uint8), rows, labels, part.images
        )
    return Split(torch.from_numpy(part.images), rows, labels)


def _only(split: Split, index: Rows) -> Split:
    chosen = torch.from_numpy(index)
    return dataclasses.replace(split, rows=split.rows[chosen], labels=split.labels[chosen])


def _copied(split: Split, index: Rows) -> Split:
    chosen = torch.from_numpy(index)
    return Split(split.images[chosen], torch.arange(len(chosen)), split.labels[chosen])


def _kept(source: Source, classes: str) -> list[int]:
    """Return the labels to keep, ascending; their places in the list are the new labels."""
    if not classes:
        return list(range(len(source.class_names)))
    names = {name: label for label, name in enumerate(source.class_names)}
    kept = set()
    for word in split_words(classes):
        # A name takes precedence over a number: the classes of the digits have digits as names.
        label = names.get(word, int(word) if word.isdecimal() else -1)
        if not 0 <= label < len(names):
            raise WordError(
                f"{source.name} has no class {word!r}{nearest(word, names)} "
                f"(it has {_listed(source.class_names)})"
            )
        kept.add(label)
    if len(kept) < 2:
        raise WordError(f"classes {classes!r} of {source.name} is one class; give two or more")
    return sorted(kept)


def _of_classes(split: Split, kept: Sequence[int]) -> Split:
    new = torch.full((max(int(split.labels.max()), *kept) + 1,), -1)
    new[list(kept)] = torch.arange(len(kept))
    labels = new[split.labels]
    found = torch.nonzero(labels >= 0).squeeze(1)
    if not len(found):
        raise WordError("no image of these classes is in one of the splits")
    return dataclasses.replace(split, rows=split.rows[found], labels=labels[found])


def _statistics(source: Source, train: Split) -> tuple[Tensor, Tensor]:
    if source.mean is not None and source.std is not None:
        return torch.tensor(source.mean), torch.tensor(source.std)
    pixels = train.images[train.rows].double()
    return pixels.mean(dim=(0, 2, 3)).float(), pixels.std(dim=(0, 2, 3)).float()


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown}, ... {len(names)} in all"
