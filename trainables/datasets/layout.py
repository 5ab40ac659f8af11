"""Folders of images: which part and which class a file is of, told by its path alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath

import numpy as np

from trainables.datasets.source import DataError
from trainables.deal import Rows, deal

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# Left out in silence, an image of these would take its class with it.
UNREAD = (".avif", ".bmp", ".gif", ".heic", ".jfif", ".jp2", ".pgm", ".ppm", ".tif", ".tiff")
# The words that Hugging Face's loader knows a split by.
_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
ANNOTATIONS = "val_annotations.txt"
# The share of a set without official test images that is always for test.
_TEST_SHARE = 0.2


def part_of(name: str) -> str:
    """The part that a file's name tells among other words, as `mnist_test-00.parquet`; or ""."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_PARTS[word] for word in words if word in _PARTS), "")


def laid_out(
    files: Iterable[str], read: Callable[[str], bytes]
) -> tuple[dict[str, list[tuple[str, int]]], list[str]]:
    """Each part's files with their labels, and the class names in order.

    `train/CLASS/.../file` with `val` or `test` beside it; `CLASS/.../file` alone; TinyImageNet's
    `val/images/file`, whose classes stand in `val_annotations.txt`, which `read` fetches. Raises
    DataError where it is none of these, or more than one.
    """
    parts: dict[str, list[tuple[str, str]]] = {}
    classes: list[tuple[str, str]] = []
    loose: dict[str, str] = {}
    annotations: dict[str, str] | None = None
    for file in sorted(files):
        path = PurePosixPath(file)
        part = _PARTS.get(path.parts[0].lower(), "") if len(path.parts) > 1 else ""
        if path.name == ANNOTATIONS and part == "val":
            annotations = _annotations(file, read(file))
        if path.suffix.lower() not in SUFFIXES:
            continue
        inside = path.parts[1:] if part else path.parts
        if len(inside) > 1:
            (parts.setdefault(part, []) if part else classes).append((file, inside[0]))
        elif part:
            loose.setdefault(part, file)
    if "train" not in parts:
        parts["train"] = classes
    elif classes:
        raise DataError(
            f"{classes[0][0]} lies beside {PurePosixPath(parts['train'][0][0]).parts[0]}/; "
            "move it in there, or out of the data set"
        )
    else:
        # ImageNet's test images, which have no labels.
        loose.pop("test", None)
    if annotations is not None:
        parts["val"] = _annotated(parts.get("val", []), annotations)
    if loose:
        file = next(iter(loose.values()))
        folder = PurePosixPath(file).parts[0]
        raise DataError(
            f"{file} is in no folder of a class; put it into {folder}/CLASS/, or if {folder} is "
            "itself a class, give that another name"
        )
    if not parts["train"]:
        raise DataError(
            "there is no image of it at train/CLASS/... nor at CLASS/... "
            f"(images are {', '.join(SUFFIXES)})"
        )
    names = sorted({name for _, name in parts["train"]})
    number = {name: label for label, name in enumerate(names)}
    of_test = {name for _, name in parts.get("test", [])}
    if len(of_test) < 2 and not of_test & set(names):
        # TinyImageNet's test images have no labels, and lie in one folder.
        parts.pop("test", None)
    for held in parts.values():
        strange = next(((file, name) for file, name in held if name not in number), None)
        if strange:
            raise DataError(
                f"{strange[0]} is of class {strange[1]!r}, which no training image has"
            )
    return {part: [(f, number[n]) for f, n in held] for part, held in parts.items()}, names


def _annotations(file: str, raw: bytes) -> dict[str, str]:
    """The class of each image, by its file's name."""
    try:
        rows = [row.split("\t") for row in raw.decode().splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no text: {error}") from error
    return {row[0]: row[1] for row in rows if len(row) > 1}


def _annotated(
    images: list[tuple[str, str]], annotations: Mapping[str, str]
) -> list[tuple[str, str]]:
    names = {file: PurePosixPath(file).name for file, _ in images}
    for file, name in names.items():
        if name not in annotations:
            raise DataError(f"{file} has no line in {ANNOTATIONS}; one of them is not whole")
    absent = sorted(annotations.keys() - names.values())
    if absent:
        raise DataError(f"{ANNOTATIONS} names {absent[0]}, and there is no such image")
    return [(file, annotations[name]) for file, name in names.items()]


def with_test(labels: Mapping[str, Rows]) -> dict[str, tuple[str, Rows]]:
    """Which rows of which found part are training, validation and test.

    Official validation images are for test where no test images are known, as the field does with
    ImageNet. Where there are neither, a fifth of the training images always is for test.
    """
    order = [part for part in ("train", "val", "test") if part in labels]
    rows = {part: (part, np.arange(len(labels[part]))) for part in order}
    if "test" in rows:
        return rows
    if "val" in rows:
        return {"train": rows["train"], "test": rows["val"]}
    held = labels["train"]
    size = round(_TEST_SHARE * len(held))
    train, test = deal(held, (len(held) - size, size), np.random.default_rng(0))
    return {"train": ("train", train), "test": ("train", test)}
