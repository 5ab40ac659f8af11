"""All known data sets: their state, their check, and how to get those that are missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainables.datasets import (
    FORMS,
    NAMES,
    cifar,
    digits,
    full_name,
    path_set,
    store,
    tinyimagenet,
)
from trainables.datasets.archive import ARCHIVES, missing
from trainables.datasets.errors import DataError, WordError
from trainables.datasets.paths import PathSet, is_current

CORRUPTED = ("cifar10c", "cifar100c")
_FETCHED = NAMES + CORRUPTED
_IMAGENET = "imagenet"


@dataclass(frozen=True)
class Entry:
    """A data set.

    Attributes:
        name: The name that a space gives it.
        state: `shipped`, `ready`, `missing` or `damaged`.
        size: The size in bytes.
        where: Its folder, which may not exist yet.
        note: Its content, or how to get it.
    """

    name: str
    state: str
    size: int
    where: str
    note: str


def fetch(name: str, from_file: Path | None, image_size: int, say: store.Say) -> None:
    """Download, check and map a data set, or map the images of a folder.

    A set that is ready and whole stays as it is. After an error nothing is left behind.

    Args:
        name: The data set's name.
        from_file: The archive, if it need not be downloaded.
        image_size: The side of a folder's decoded images; 0 keeps theirs.
        say: Takes a sentence about the progress.

    Raises:
        DataError: The set cannot be downloaded, read or written.
    """
    name = full_name(name, _FETCHED)
    if name not in ARCHIVES:
        if from_file is not None:
            raise WordError(f"{name} comes from no archive; leave --from-file out")
        if name == "digits":
            say("digits is part of samtune; there is nothing to fetch")
        else:
            path_set(name, image_size).fetch(say)
        return
    if image_size:
        raise WordError(f"all images of {name} have one size; leave --image-size out")
    with store.locked(name, say):
        try:
            check(name)
        except DataError:
            _fetch(name, from_file, say)


def check(name: str, image_size: int = 0) -> Entry:
    """Check every byte of a data set, and return its entry.

    Raises:
        DataError: The set is missing or damaged.
    """
    name = full_name(name, _FETCHED)
    if name == "digits":
        held = len(digits.digits().parts["train"].labels)
        size = digits.FILE.stat().st_size
        return Entry(name, "shipped", size, str(digits.FILE.parent), f"{held:,} images")
    if name in ARCHIVES and not (store.root() / name).is_dir():
        raise missing(name)
    if name in CORRUPTED:
        count = store.verify_sums(name)
        return Entry(name, "ready", _size(name), str(store.root() / name), f"{count} files")
    if name in ARCHIVES:
        store.verify(name)
        return _mapped(name)
    images = path_set(name, image_size)
    if store.manifest(images.slug) is None:
        raise DataError(f"{name} is not mapped yet; type: samtune data fetch {name}")
    return _check_mapped(images.slug)


def entries() -> Iterator[Entry]:
    """Yield every known set and every folder that was mapped; the images are not read."""
    yield check("digits")
    for name, archive in ARCHIVES.items():
        there = (store.root() / name).is_dir()
        if there and name in CORRUPTED:
            count = len(list((store.root() / name).glob("*.npy")))
            yield Entry(name, "ready", _size(name), str(store.root() / name), f"{count} files")
        elif there:
            yield _mapped(name)
        else:
            note = f"{archive.size / 1e6:,.0f} MB: samtune data fetch {name}"
            yield Entry(name, "missing", archive.size, str(store.root() / name), note)
    mapped = [
        _mapped(folder.name)
        for form in FORMS
        for folder in sorted(store.root().glob(f"{form}-*/"))
    ]
    if all(entry.name != _IMAGENET for entry in mapped):
        yield _imagenet()
    yield from mapped


def checked_entries() -> Iterator[Entry]:
    """Yield the entries of all sets that are not missing, every byte checked."""
    yield from (checked(entry) for entry in entries() if entry.state != "missing")


def checked(entry: Entry) -> Entry:
    """Check every byte of the set, and return its entry: `ready` may become `damaged`."""
    slug = Path(entry.where).name
    if entry.state != "ready" or slug == _IMAGENET:
        return entry
    try:
        return check(slug) if slug in ARCHIVES else _check_mapped(slug)
    except DataError as error:
        return dataclasses.replace(entry, state="damaged", note=str(error))


def _imagenet() -> Entry:
    """Return the entry of ImageNet's own files, which nothing has mapped."""
    folder = store.root() / _IMAGENET
    parts = [folder / part for part in ("train", "val")]
    if not all(part.is_dir() for part in parts):
        note = "put its images at train/CLASS and val/CLASS there, or a link to them"
        return Entry(_IMAGENET, "missing", 0, str(folder), note)
    classes = sum(entry.is_dir() for entry in parts[0].iterdir())
    note = f"{classes:,} classes of image files, read as they are"
    return Entry(_IMAGENET, "ready", 0, str(folder), note)


def _check_mapped(slug: str) -> Entry:
    about = store.verify(slug)
    origin, entry = about["origin"], _mapped(slug)
    size = origin["image_size"]
    images = PathSet(entry.name, origin["form"], Path(origin["folder"]), size)
    fetch_again = f"type: samtune data fetch {entry.name}"
    fetch_again += f" --image-size {size}" if size else ""
    if not is_current(about):
        raise DataError(f"{entry.name} was mapped by another version of samtune; {fetch_again}")
    if origin["sha256"] != images.content():
        raise DataError(
            f"the files of {entry.name} have changed since they were mapped; {fetch_again}"
        )
    return entry


def _fetch(name: str, from_file: Path | None, say: store.Say) -> None:
    if name in CORRUPTED:
        cifar.fetch_corrupted(name, from_file, say)
    elif name == tinyimagenet.NAME:
        tinyimagenet.fetch_tinyimagenet(from_file, say)
    else:
        cifar.fetch_cifar(name, from_file, say)


def _mapped(slug: str) -> Entry:
    where = str(store.root() / slug)
    try:
        source, about = store.opened(slug), store.manifest(slug)
    except DataError as error:
        return Entry(slug, "damaged", _size(slug), where, str(error))
    if source is None or about is None:
        return Entry(
            slug,
            "damaged",
            _size(slug),
            where,
            "it has no manifest.json: it is not samtune's; move it to another place",
        )
    counts = " + ".join(f"{len(part.labels):,}" for part in source.parts.values())
    shape = " x ".join(map(str, about["shape"]))
    note = f"{counts} images of {shape}, {len(source.class_names)} classes"
    return Entry(source.name, "ready", _size(slug), where, note)


def _size(slug: str) -> int:
    return sum(path.stat().st_size for path in (store.root() / slug).iterdir() if path.is_file())
