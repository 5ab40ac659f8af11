"""Where images come from: one file a source, all found by the name that a space gives."""

from __future__ import annotations

import difflib
from pathlib import Path

from trainables.datasets.source import DataError, Part, Source

__all__ = ["FORMS", "NAMES", "DataError", "Part", "Source", "corrupted", "find", "full_name"]

NAMES = ("digits", "cifar10", "cifar100", "tinyimagenet", "imagenet")
FORMS = ("parquet", "folder")


def full_name(name: object) -> str:
    """The name with its path made absolute. Raises DataError for one that names no data set."""
    if name in NAMES:
        return str(name)
    form, colon, path = str(name).partition(":")
    if colon and form in FORMS:
        if not path:
            raise DataError(f"{name!r} names no folder; write {form}:/path")
        folder = Path(path).expanduser().absolute()
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise DataError(f"{name!r} names no folder: {folder} {what}")
        return f"{form}:{folder}"
    near = difflib.get_close_matches(form if colon else str(name), NAMES + FORMS, n=1)
    if near:
        meant = f"{near[0]}:/path" if near[0] in FORMS else near[0]
        raise DataError(f"unknown data set {name!r}; did you mean {meant}?")
    known = ", ".join((*NAMES, *(f"{form}:/path" for form in FORMS)))
    raise DataError(f"unknown data set {name!r}; there is: {known}")


def find(name: str, image_size: int) -> Source:
    """The data set; `image_size` 0 is the size that its images have.

    Nothing is downloaded. Raises DataError where the set is missing, damaged or has no such size.
    """
    name = full_name(name)
    from trainables.datasets.digits import digits

    if image_size:
        raise DataError(
            f"image_size is {image_size}, but the images of {name} have one size; 0 keeps it"
        )
    return digits()


def corrupted(source: Source, corruption: str, severity: int) -> Part:
    """The official test images of CIFAR-10 or CIFAR-100 under a corruption.

    Raises DataError for another set, and where they are missing.
    """
    raise DataError(
        f"corruption is {corruption}, but only cifar10 and cifar100 have corrupted test images; "
        f"set it to none for {source.name}"
    )
