"""What a trial trains on: a data set, dealt so that a search cannot see the test images.

`load` gives a search trial its training and validation images and nothing else; `open_test` is
the only way to the test images and asks for a permit. Both depend on the task and `split_seed`
alone: equal seeds give equal splits and equal label noise in every process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from samtune.optimizers.variant import Knob, KnobError, nearest
from samtune.trial import Value
from trainables.datasets import (
    NAMES,
    DataError,
    Part,
    Source,
    WordError,
    corrupted,
    find,
    full_name,
)
from trainables.datasets.cifar import CORRUPTIONS
from trainables.datasets.decode import Encoded
from trainables.datasets.labels import confusions
from trainables.deal import Rows, deal, flip, redraw
from trainables.split import Split, Streamed

__all__ = [
    "TASK",
    "DataError",
    "Split",
    "TrainVal",
    "check_name",
    "load",
    "make_ready",
    "open_test",
]


class _DatasetKnob(Knob):
    """Its value is a name, or a form with a path, which is made absolute."""

    def _checked_choice(self, value: object) -> str:
        try:
            return full_name(value)
        except DataError as error:
            raise KnobError(f"{self.name}: {error}") from error


class _ClassesKnob(Knob):
    """Its value is "" or two or more words with commas between them."""

    def _checked_choice(self, value: object) -> str:
        words = _words(value) if isinstance(value, str) else []
        if value != "" and (len(words) < 2 or "" in words or len(set(words)) < len(words)):
            raise KnobError(
                f'{self.name} is {value!r}; it must be two or more classes, "0,3,5" or "cat,dog", '
                'or "" for all'
            )
        return ",".join(words)


TASK: tuple[Knob, ...] = (
    _DatasetKnob(
        name="dataset",
        kind=str,
        default="digits",
        choices=NAMES,
        doc="a known data set, folder:/path, or parquet:/path with #column for other labels; "
        "`samtune data list` tells them",
        source="trainables/datasets",
    ),
    Knob(
        name="label_noise",
        kind=float,
        default=0.0,
        low=0.0,
        high=1.0,
        safe=(0.0, 0.8),
        doc="share of the training labels that noise takes; validation and test stay clean",
        source="Foret et al. 2021, section 3.3, tries 0.2 to 0.8",
    ),
    Knob(
        name="label_noise_kind",
        kind=str,
        default="symmetric",
        choices=("symmetric", "asymmetric"),
        doc="redrawn uniformly over all classes, or taken for the class most like it",
        source="Patrini et al. 2017, section 5",
    ),
    Knob(
        name="train_size",
        kind=float,
        default=1.0,
        low=0.0,
        high=1.0,
        safe=(0.01, 1.0),
        doc="share of the training images that is used, of each class alike",
        source="a tenth of CIFAR-10 still has 450 images a class",
    ),
    Knob(
        name="val_size",
        kind=float,
        default=0.0,
        low=0.0,
        high=0.9,
        safe=(0.0, 0.5),
        doc="share of the official training images that is for validation; 0 is the set's own "
        "way: its official validation images, else a tenth (digits: 297 of 1,297)",
        source="5,000 of CIFAR-10's 50,000 tell accuracies apart by 0.4 points",
    ),
    _ClassesKnob(
        name="classes",
        kind=str,
        default="",
        doc='the classes that are kept, by number or name: "0,3,5", "cat,dog"; "" is all',
        source="trainables/data.py",
    ),
    Knob(
        name="image_size",
        kind=int,
        default=0,
        low=0,
        high=1024,
        safe=(0, 512),
        doc="folder, parquet and imagenet: side of the images, resized and cut; 0 keeps theirs",
        source="ImageNet is commonly trained at 224",
    ),
    Knob(
        name="corruption",
        kind=str,
        default="none",
        choices=("none", *CORRUPTIONS),
        doc="of the test images of cifar10 and cifar100, as in CIFAR-10-C",
        source="Hendrycks and Dietterich 2019",
    ),
    Knob(
        name="severity",
        kind=int,
        default=1,
        low=1,
        high=5,
        doc="of the corruption; without one it means nothing",
        source="Hendrycks and Dietterich 2019",
    ),
)


@dataclass(frozen=True)
class TrainVal:
    """All that a search trial gets. `mean` and `std` (C,) are those of the training pixels.

    Training labels carry the task's label noise, validation labels are clean. `sha256` is that of
    the whole data set.
    """

    train: Split
    val: Split
    classes: int
    mean: Tensor
    std: Tensor
    name: str
    sha256: str


@dataclass(frozen=True)
class _Wanted:
    """The task's words that say which images and labels a trial gets."""

    dataset: str
    label_noise: float
    label_noise_kind: str
    train_size: float
    val_size: float
    classes: str
    image_size: int
    corruption: str
    severity: int


def check_name(name: object) -> None:
    """Raises DataError, with the nearest name that there is, unless `name` is a data set's."""
    full_name(name)


def make_ready(task: Mapping[str, Value]) -> tuple[tuple[int, int, int], int]:
    """Maps the images of a folder, for whoever starts trials: one process, before them all.

    Returns the shape of an image (C, H, W) and the number of classes. Raises DataError for what
    would keep every trial from its data: a set that is missing or damaged, a class that it lacks,
    or a share of its training images that is too small.
    """
    wanted = _wanted(task)
    source = find(wanted.dataset, wanted.image_size)
    kept = _kept(source, wanted.classes)
    if wanted.corruption != "none":
        corrupted(source, wanted.corruption, wanted.severity)
    if wanted.train_size < 1:
        # However they are dealt, a training set has as many images.
        _used(_of_classes(_dealt(source, wanted, 0)[0], kept), wanted, kept)
    channels, height, width = source.parts["train"].images.shape[-3:]
    return (channels, height, width), len(kept)


def load(task: Mapping[str, Value], split_seed: int) -> TrainVal:
    """Training and validation images as the task asks for them, drawn by `split_seed`.

    Of the task only the words of `TASK` count, and those left out have their default. Raises
    DataError for a value that cannot be, and for a data set that is missing or damaged.
    """
    return _train_val(_wanted(task), split_seed)


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
    return _test(_wanted(task), split_seed)


def _wanted(task: Mapping[str, Value]) -> _Wanted:
    try:
        values = {knob.name: knob.check(task.get(knob.name, knob.default)) for knob in TASK}
    except KnobError as error:
        raise DataError(str(error)) from error
    return _Wanted(**values)  # type: ignore[arg-type]


# Workers are warm: the next trial of a sweep often asks for the split of the last one.
@lru_cache(maxsize=8)
def _train_val(wanted: _Wanted, split_seed: int) -> TrainVal:
    source = find(wanted.dataset, wanted.image_size)
    kept = _kept(source, wanted.classes)
    train, val = _dealt(source, wanted, split_seed)[:2]
    train, val = _of_classes(train, kept), _of_classes(val, kept)
    if wanted.train_size < 1:
        size = _used(train, wanted, kept)
        rng = np.random.default_rng((split_seed, 3))
        labels = train.labels.numpy()
        train = _only(train, deal(labels, (size, len(train) - size), rng)[0])
    noise, rng = wanted.label_noise, np.random.default_rng((split_seed, 1))
    # A copy: validation and the next trial's split are of the same clean labels.
    labels = train.labels.numpy().copy()
    if wanted.label_noise_kind == "symmetric":
        redraw(labels, noise, len(kept), rng)
    else:
        flip(labels, noise, confusions([source.class_names[label] for label in kept]), rng)
    train = dataclasses.replace(train, labels=torch.from_numpy(labels))
    mean, std = _statistics(source, train)
    return TrainVal(train, val, len(kept), mean, std, source.name, source.sha256)


def _used(train: Split, wanted: _Wanted, kept: Sequence[int]) -> int:
    """How many of the training images the task uses."""
    size = round(wanted.train_size * len(train))
    if size < len(kept):
        raise WordError(
            f"train_size {wanted.train_size:g} leaves {size} of {len(train)} training images "
            f"for {len(kept)} classes; there must be one a class"
        )
    return size


@lru_cache(maxsize=2)
def _test(wanted: _Wanted, split_seed: int) -> Split:
    source = find(wanted.dataset, wanted.image_size)
    kept = _kept(source, wanted.classes)
    if wanted.corruption != "none":
        part = corrupted(source, wanted.corruption, wanted.severity)
        return _of_classes(_whole(part), kept)
    return _of_classes(_dealt(source, wanted, split_seed)[2], kept)


def _dealt(source: Source, wanted: _Wanted, split_seed: int) -> list[Split]:
    """Training, validation and test, all classes, clean.

    What is dealt for test does not depend on `val_size`.
    """
    part, val_size = source.parts["train"], wanted.val_size
    pool = _whole(part)
    if "test" in source.parts:
        test = _whole(source.parts["test"])
        if "val" in source.parts and not val_size:
            return [pool, _whole(source.parts["val"]), test]
        val_size = val_size or 0.1
    else:
        assert source.sizes is not None, "a set without official test images says how to deal them"
        rng = np.random.default_rng((split_seed, 0))
        rows = deal(part.labels, tuple(source.sizes.values()), rng)
        # Copied out, so that the store which a search trial holds has no test image in it.
        test = _copied(pool, rows[2])
        searched = np.sort(np.concatenate(rows[:2]))
        pool = _copied(pool, searched)
        if not val_size:
            places = [np.searchsorted(searched, rows[k]) for k in range(2)]
            return [_only(pool, places[0]), _only(pool, places[1]), test]
    held = round(val_size * len(pool))
    rng = np.random.default_rng((split_seed, 2))
    train, val = deal(pool.labels.numpy(), (len(pool) - held, held), rng)
    return [_only(pool, train), _only(pool, val), test]


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
    """The labels that are kept, ascending; their places in the list are the new labels."""
    if not classes:
        return list(range(len(source.class_names)))
    names = {name: label for label, name in enumerate(source.class_names)}
    kept = set()
    for word in _words(classes):
        # A name goes first: the classes of the digits are called by digits.
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
    new = torch.full((int(split.labels.max()) + 1,), -1)
    for place, label in enumerate(kept):
        if label < len(new):
            new[label] = place
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


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown}, ... {len(names)} in all"
