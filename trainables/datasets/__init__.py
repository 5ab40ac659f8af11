"""Data sets by the name that a space gives them: one module per source."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from trainables.datasets import cifar, digits, tinyimagenet
from trainables.datasets.errors import DataError, WordError
from trainables.datasets.paths import PathSet
from trainables.datasets.source import Part, Source
from trainables.datasets.store import manifest, root

__all__ = [
    "FORMS",
    "NAMES",
    "DataError",
    "Part",
    "Source",
    "WordError",
    "corrupted",
    "find",
    "full_name",
    "is_ready",
    "path_set",
]

NAMES = ("digits", "cifar10", "cifar100", "tinyimagenet", "imagenet")
FORMS = ("parquet", "folder")
_IMAGENET_SIZE = 224


def full_name(name: object, names: tuple[str, ...] = NAMES) -> str:
    """Return a data set's name with its path made absolute.

    Args:
        name: One of `names`, `folder:/path`, `parquet:/path` or `parquet:/path#label_column`.
        names: The names that need no path.

    Raises:
        WordError: The name is none of these, or its folder does not exist.
    """
    if name in names:
        return str(name)
    form, colon, path = str(name).partition(":")
    if colon and form in FORMS:
        if not path:
            raise WordError(f"{name!r} names no folder; write {form}:/path")
        folder, column = _folder(form, path)
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise WordError(f"{name!r} names no folder: {folder} {what}")
        return f"{form}:{folder}#{column}" if column else f"{form}:{folder}"
    word = (form if colon else str(name)).lower()
    near = difflib.get_close_matches(word, names + FORMS, n=1)
    if near:
        meant = f"{near[0]}:/path" if near[0] in FORMS else near[0]
        raise WordError(f"unknown data set {name!r}; did you mean {meant}?")
    known = ", ".join((*names, *(f"{form}:/path" for form in FORMS)))
    raise WordError(f"unknown data set {name!r}; there is: {known}")


def path_set(name: str, image_size: int) -> PathSet:
    """Return the set of `folder:/path`, `parquet:/path`, or of `imagenet` in the data root."""
    if name == "imagenet":
        folder = root() / "imagenet"
        if not folder.is_dir():
            raise DataError(
                f"the data set imagenet is not in {root()}, and its licence lets nobody fetch it "
                f"for you; put its images, or a link to them, at {folder}/train/CLASS/ and "
                f"{folder}/val/CLASS/"
            )
        return PathSet(name, "folder", folder, image_size or _IMAGENET_SIZE)
    form, _, path = name.partition(":")
    folder, column = _folder(form, path)
    return PathSet(name, form, folder, image_size, column)


def is_ready(name: str, image_size: int = 0) -> bool:
    """Return True if `find` would open the set as it is, and not map its images first."""
    if name == "imagenet" or ":" in name:
        return path_set(name, image_size).is_mapped()
    return name == "digits" or manifest(name) is not None


def _folder(form: str, path: str) -> tuple[Path, str]:
    """Return the folder, and the column after a `#`; a folder's own name may have a `#` too."""
    folder = Path(os.path.abspath(os.path.expanduser(path)))
    before, mark, column = path.rpartition("#")
    if form == "parquet" and mark and before and not folder.is_dir():
        return Path(os.path.abspath(os.path.expanduser(before))), column
    return folder, ""


def find(name: str, image_size: int = 0) -> Source:
    """Return a data set; nothing is downloaded.

    Args:
        name: The name that a space gives it.
        image_size: The side of the images of a folder, Parquet files or ImageNet; 0 keeps theirs.

    Raises:
        DataError: The set is missing or damaged, or its images cannot have another size.
    """
    name = full_name(name)
    if name == "imagenet" or ":" in name:
        return path_set(name, image_size).source()
    if image_size:
        raise WordError(
            f"image_size is {image_size}, but all images of {name} have one size; set it to 0"
        )
    if name == "digits":
        return digits.digits()
    return tinyimagenet.tinyimagenet() if name == "tinyimagenet" else cifar.cifar(name)


def corrupted(source: Source, corruption: str, severity: int) -> Part:
    """Return the official test images of CIFAR-10 or CIFAR-100 under a corruption.

    Raises:
        DataError: The set has no corrupted images, or they are missing.
    """
    if source.name not in {"cifar10", "cifar100"}:
        raise WordError(
            f"corruption is {corruption}, but only cifar10 and cifar100 have corrupted test "
            f"images; set it to none for {source.name}"
        )
    return cifar.corrupted(source.name, corruption, severity)
