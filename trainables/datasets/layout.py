"""Layouts of image folders: the split and the class of each file, from its path alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath

import numpy as np

from samtune.optimizers.knobs import nearest
from trainables.datasets.errors import DataError
from trainables.datasets.split_names import is_split, split_of, splits_of
from trainables.sampling import Rows, split_by_class

# Changes whenever the same paths are of other splits or classes, as in decode.py.
VERSION = 2
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp")
# Images of these kinds are refused, so that a class does not lose images silently.
UNREAD = (".avif", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".pbm", ".pgm", ".pnm", ".ppm")
ANNOTATIONS = "val_annotations.txt"
# A set without a test split always keeps this share of its images for test.
_TEST_SHARE = 0.2

Paths = Mapping[str, tuple[str, ...]]
Parts = dict[str, list[tuple[str, str]]]


def laid_out(
    files: Iterable[str], read: Callable[[str], bytes]
) -> tuple[dict[str, list[tuple[str, int]]], list[str]]:
    """Return each split's files with their labels, and the class names in order.

    Known layouts are `SPLIT/CLASS/.../file`, `CLASS/SPLIT/.../file`, `CLASS/.../file`, and
    TinyImageNet's `val/images/file` with the classes in `val_annotations.txt`. A single folder
    around any of them is skipped.

    Args:
        files: Paths relative to the data set's folder.
        read: Returns the bytes of the file with such a path.

    Raises:
        DataError: The files have none of these layouts, or more than one.
    """
    files = sorted(files)
    paths = {file: PurePosixPath(file) for file in files}
    parts = _divided(
        {file: path.parts for file, path in paths.items() if path.suffix.lower() in SUFFIXES}
    )
    for file, path in paths.items():
        if path.name == ANNOTATIONS and split_of(path.parent.name) == "val":
            parts["val"] = _annotated(parts.get("val", []), _annotations(file, read(file)))
    if not parts.get("train"):
        raise DataError(
            "there is no image of it at train/CLASS/... nor at CLASS/... "
            f"(images are {', '.join(SUFFIXES)})"
        )
    names = sorted({name for _, name in parts["train"]})
    of_test = {name for _, name in parts.get("test", [])}
    if len(of_test) < 2 and not of_test & set(names):
        # TinyImageNet's test images have no labels, and lie in one folder.
        parts.pop("test", None)
    for held in parts.values():
        _refuse_unknown_class(held, names)
    number = {name: label for label, name in enumerate(names)}
    return {part: [(f, number[n]) for f, n in held] for part, held in parts.items()}, names


def _unwrapped(paths: Paths) -> Paths:
    """Strip the folders around all images; a folder that holds an image itself stays."""
    while (wrapper := _wrapper(paths.values())) and not is_split(wrapper):
        paths = {file: path[1:] for file, path in paths.items()}
    return paths


def _wrapper(paths: Iterable[tuple[str, ...]]) -> str:
    """Return the first folder of all paths if it is one and holds folders alone; else ""."""
    paths = list(paths)
    first = {path[0] for path in paths}
    return first.pop() if len(first) == 1 and all(len(path) > 2 for path in paths) else ""


def _divided(paths: Paths) -> Parts:
    """Return each split's files with their class names.

    Raises:
        DataError: An image is in no folder of a class, or in none of a split where others are.
    """
    # Images beside the outermost folders belong to no class, as in torchvision's ImageFolder.
    paths = _unwrapped({file: path for file, path in paths.items() if len(path) > 1})
    splits = splits_of({path[0] for path in paths.values()})
    if not splits:
        paths = _turned(paths)
        splits = splits_of({path[0] for path in paths.values()})
    inside: dict[str, dict[str, tuple[str, ...]]] = {}
    classes: list[tuple[str, str]] = []
    for file, path in paths.items():
        if path[0] in splits:
            inside.setdefault(splits[path[0]], {})[file] = path[1:]
        else:
            classes.append((file, path[0]))
    if "train" in inside and "test" in inside:
        # ImageNet's test images, which have no labels, lie in no folder of a class.
        inside["test"] = {file: path for file, path in inside["test"].items() if len(path) > 1}
    parts: Parts = {"train": classes}
    for split in ("train", "val", "test"):
        known = {name for _, name in parts["train"]}
        parts[split] = parts.get(split, []) + _classes(inside.get(split, {}), known)
    if "train" in inside and classes:
        train = next(folder for folder, split in splits.items() if split == "train")
        raise DataError(
            f"{classes[0][0]} lies beside {train}/; move it in there, or out of the data set"
        )
    return {split: held for split, held in parts.items() if held}


def _classes(paths: Paths, known: set[str]) -> list[tuple[str, str]]:
    """Return a split's files with their class names; `known` are those of the training images."""
    wrapper = _wrapper(paths.values())
    if wrapper and wrapper not in known:
        paths = {file: path[1:] for file, path in paths.items()}
    loose = [file for file, path in paths.items() if len(path) == 1]
    if loose:
        folder = PurePosixPath(loose[0]).parent.name
        raise DataError(
            f"{loose[0]} is in no folder of a class; put it into {folder}/CLASS/, or if {folder} "
            "is itself a class, give that another name"
        )
    return [(file, path[0]) for file, path in paths.items()]


def _turned(images: Paths) -> Paths:
    """Return `CLASS/SPLIT/.../file` as `SPLIT/CLASS/.../file`; other layouts as they are."""
    inner = {file: len(path) > 2 and is_split(path[1]) for file, path in images.items()}
    if not any(inner.values()):
        return images
    if not all(inner.values()):
        split = next(file for file, is_inner in inner.items() if is_inner)
        other = next(file for file, is_inner in inner.items() if not is_inner)
        raise DataError(
            f"{split} lies in a folder named after a split, and {other} does not; "
            "use SPLIT/CLASS/... for all images, or CLASS/... for all"
        )
    return {file: (path[1], path[0], *path[2:]) for file, path in images.items()}


def _refuse_unknown_class(held: Iterable[tuple[str, str]], names: list[str]) -> None:
    for file, name in held:
        if name not in names:
            raise DataError(
                f"{file} is of class {name!r}, which no training image has{nearest(name, names)}"
            )


def _annotations(file: str, raw: bytes) -> dict[str, str]:
    """Return the class of each image, by its file's name."""
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


def with_test(name: str, labels: Mapping[str, Rows]) -> dict[str, tuple[str, Rows]]:
    """Return the found part and its rows that are for training, validation and test.

    Official validation images are for test if no test images are known, as is usual with ImageNet.
    If there are neither, a fifth of the training images is for test, whatever the seed.

    Raises:
        DataError: The images are too few for a training, a validation and a test split.
    """
    order = [part for part in ("train", "val", "test") if part in labels]
    rows = {part: (part, np.arange(len(labels[part]))) for part in order}
    if "test" in rows:
        return rows
    if "val" in rows:
        return {"train": rows["train"], "test": rows["val"]}
    held = labels["train"]
    classes = len(np.unique(held))
    if len(held) < classes + 2:
        raise DataError(
            f"{name} has {len(held)} images of {classes} classes, and needs at least "
            f"{classes + 2}: training takes one of each class, validation and test one more each"
        )
    size = max(1, round(_TEST_SHARE * len(held)))
    train, test = split_by_class(held, (len(held) - size, size), np.random.default_rng(0))
    return {"train": ("train", train), "test": ("train", test)}
