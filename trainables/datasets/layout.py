"""Folders of images: which part and which class a file is of, told by its path alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath

import numpy as np

from trainables.datasets.source import DataError
from trainables.deal import Rows, deal

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
ANNOTATIONS = "val_annotations.txt"
# The share of a set without official test images that is always for test.
_TEST_SHARE = 0.2


def laid_out(
    files: Iterable[str], read: Callable[[str], bytes]
) -> tuple[dict[str, list[tuple[str, int]]], list[str]]:
    """Each part's files with their labels, and the class names in order.

    `train/CLASS/.../file` with `val` or `test` beside it; `CLASS/.../file` alone; TinyImageNet's
    `val/images/file`, whose classes stand in `val_annotations.txt`, which `read` fetches. Raises
    DataError where it is none of these.
    """
    parts: dict[str, list[tuple[str, str]]] = {}
    annotations: dict[str, str] = {}
    for file in sorted(files):
        path = PurePosixPath(file)
        if path.name == ANNOTATIONS:
            rows = read(file).decode().splitlines()
            annotations = {row.split("\t")[0]: row.split("\t")[1] for row in rows if "\t" in row}
        if path.suffix.lower() not in SUFFIXES:
            continue
        part = _PARTS.get(path.parts[0], "") if len(path.parts) > 1 else ""
        inside = path.parts[1:] if part else path.parts
        if len(inside) > 1:
            parts.setdefault(part or "train", []).append((file, inside[0]))
    if annotations and "val" in parts:
        parts["val"] = [
            (file, annotations[name])
            for file, _ in parts["val"]
            if (name := PurePosixPath(file).name) in annotations
        ]
    if not parts.get("train"):
        raise DataError(
            "there is no image of it at train/CLASS/... nor at CLASS/... "
            f"(images are {', '.join(SUFFIXES)})"
        )
    names = sorted({name for _, name in parts["train"]})
    number = {name: label for label, name in enumerate(names)}
    if not {name for _, name in parts.get("test", [])} & set(names):
        # ImageNet's and TinyImageNet's test images have no labels.
        parts.pop("test", None)
    for held in parts.values():
        strange = next(((file, name) for file, name in held if name not in number), None)
        if strange:
            raise DataError(
                f"{strange[0]} is of class {strange[1]!r}, which no training image has"
            )
    return {part: [(f, number[n]) for f, n in held] for part, held in parts.items()}, names


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
