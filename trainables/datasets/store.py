"""Data sets on disk: memory maps that are whole or absent, with a manifest of their hashes.

A set is a folder in `root()` with `<part>-images.npy` (uint8, N x C x H x W), `<part>-labels.npy`
(int64) and `manifest.json`. The process that holds its lock writes it beside its place and then
renames it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from trainables.datasets.errors import DataError
from trainables.datasets.source import Part, Source

_MANIFEST = "manifest.json"
_SUMS = "SHA256SUMS"
_SCHEMA = "samtune-data/1"
_LEVELS = np.arange(256)

Say = Callable[[str], None]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Pixels:
    """A split to write.

    Attributes:
        shape: The shape of all images together, (N, C, H, W).
        chunks: The images in order, uint8 of shape (B, C, H, W).
        labels: Their labels, of shape (N,).
    """

    shape: tuple[int, int, int, int]
    chunks: Iterable[NDArray[np.uint8]]
    labels: Labels

    @property
    def nbytes(self) -> int:
        """The size of the images in bytes."""
        return int(np.prod(self.shape))


def root() -> Path:
    """Return the folder of all data sets: SAMTUNE_DATA_ROOT, else samtune/data in the cache."""
    if named := os.environ.get("SAMTUNE_DATA_ROOT"):
        return Path(named).expanduser().absolute()
    mac = Path.home() / "Library/Caches"
    home = mac if sys.platform == "darwin" else Path.home() / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home) / "samtune" / "data"


def manifest(slug: str) -> dict[str, Any] | None:
    """Return the manifest of the set in folder `slug`; None if there is none.

    Raises:
        DataError: The manifest cannot be read.
    """
    path = root() / slug / _MANIFEST
    try:
        found = json.loads(path.read_text())
        if found["schema"] != _SCHEMA:
            raise DataError(f"{path} is of another version of samtune; {_again(slug)}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); {_again(slug)}") from error
    return dict(found)


def opened(slug: str) -> Source | None:
    """Return the set in folder `slug` with memory-mapped images; None if there is none.

    All processes of a machine share the pages; what a process writes into them is its own. Only
    sizes and labels are checked here, see `verify`.

    Raises:
        DataError: The set is damaged.
    """
    found = manifest(slug)
    if found is None:
        return None
    folder, parts = root() / slug, {}
    for part in found["parts"]:
        for file in _files(part):
            held, size = folder / file, found["files"][file]["bytes"]
            if not held.is_file() or held.stat().st_size != size:
                raise DataError(f"{held} is damaged: it should have {size} bytes; {_again(slug)}")
        images, labels = (folder / file for file in _files(part))
        if _sha256(labels) != found["files"][labels.name]["sha256"]:
            raise DataError(f"{labels} is damaged: its SHA-256 has changed; {_again(slug)}")
        parts[part] = Part(np.load(images, mmap_mode="c"), np.load(labels))
    return Source(
        name=found["name"],
        parts=parts,
        class_names=tuple(found["class_names"]),
        sha256=found["sha256"],
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
    )


def verify(slug: str) -> dict[str, Any]:
    """Check every byte of a set, and return its manifest.

    Raises:
        DataError: The set is missing, or a file has changed; the message names it.
    """
    source, found = opened(slug), manifest(slug)
    if source is None or found is None:
        raise DataError(f"{slug} is not in {root()}")
    for file, about in found["files"].items():
        path = root() / slug / file
        if _sha256(path) != about["sha256"]:
            raise DataError(f"{path} is damaged: its SHA-256 has changed; {_again(slug)}")
    for part, counts in found["counts"].items():
        labels = source.parts[part].labels
        if np.bincount(labels, minlength=len(source.class_names)).tolist() != counts:
            raise DataError(f"{part} of {slug} has other counts per class than it should have")
    return found


def keep(path: Path, raw: bytes) -> None:
    """Write a file into a `workspace`."""
    with _readable_errors():
        path.write_bytes(raw)


def write_sums(folder: Path) -> None:
    """Write the SHA256SUMS of all files in a `workspace`, and sync them to disk."""
    with _readable_errors():
        files = sorted(path for path in folder.iterdir() if path.is_file())
        for path in files:
            _sync(path)
        sums = "".join(f"{_sha256(path)}  {path.name}\n" for path in files)
        _write(folder / _SUMS, sums.encode())


def verify_sums(slug: str) -> int:
    """Check the files against their SHA256SUMS, and return how many there are.

    Raises:
        DataError: A file is missing or has changed; the message names it.
    """
    folder = root() / slug
    try:
        lines = (folder / _SUMS).read_text().splitlines()
        for line in lines:
            sha256, _, file = line.partition("  ")
            if _sha256(folder / file) != sha256:
                raise DataError(
                    f"{folder / file} is damaged: its SHA-256 has changed; {_again(slug)}"
                )
    except OSError as error:
        raise DataError(f"{folder} is not whole: {error}; {_again(slug)}") from error
    return len(lines)


def remember(slug: str, origin: Mapping[str, Any]) -> None:
    """Replace the origin in a manifest; the caller holds the set's lock."""
    path = root() / slug / _MANIFEST
    found = {**json.loads(path.read_text()), "origin": dict(origin)}
    beside = path.with_suffix(".unfinished")
    _write(beside, json.dumps(found, indent=1).encode())
    beside.replace(path)


@contextmanager
def locked(slug: str, say: Say = lambda _: None) -> Iterator[None]:
    """Hold the set's lock: one process makes the set, and the others wait here for it."""
    folder = root()
    with _readable_errors():
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{slug}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process makes {slug}; waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def workspace(slug: str) -> Iterator[Path]:
    """Yield an empty folder that replaces the set's at the end; if the block fails, remove it.

    The caller holds the set's lock.

    Raises:
        DataError: The set's place holds a folder that samtune did not make.
    """
    target, folder = root() / slug, root() / f".unfinished-{slug}"
    if target.exists() and not any((target / name).exists() for name in (_MANIFEST, _SUMS)):
        raise DataError(f"{target} was not made by samtune; move it to another place")
    with _readable_errors():
        # This is from a killed process, because the lock keeps all others out.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    try:
        yield folder
        with _readable_errors():
            _sync(folder)
            if target.exists():
                target.rename(folder / "old")
                shutil.rmtree(folder / "old")
            folder.rename(target)
            _sync(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(
    folder: Path,
    name: str,
    parts: Mapping[str, Pixels],
    class_names: Sequence[str],
    origin: Mapping[str, Any],
) -> None:
    """Write a set and its manifest into a `workspace`.

    Raises:
        DataError: A split is empty, the labels are wrong (see `check`), or the disk is full.
    """
    check(name, {part: pixels.labels for part, pixels in parts.items()}, class_names)
    needed = sum(part.nbytes for part in parts.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{name} takes {needed / 1e9:.1f} GB and {root()} has {free / 1e9:.1f} GB left; "
            "make room, or name another folder by SAMTUNE_DATA_ROOT"
        )
    files: dict[str, dict[str, Any]] = {}
    histograms = {}
    with _readable_errors():
        for part, pixels in parts.items():
            images, labels = (folder / file for file in _files(part))
            histograms[part] = _write_images(images, pixels)
            np.save(labels, pixels.labels)
            for path in (images, labels):
                _sync(path)
                files[path.name] = {"sha256": _sha256(path), "bytes": path.stat().st_size}
        sums = "".join(f"{about['sha256']}  {file}\n" for file, about in sorted(files.items()))
        mean, std = statistics(histograms["train"])
        classes = len(class_names)
        about = {
            "schema": _SCHEMA,
            "name": name,
            "sha256": hashlib.sha256(sums.encode()).hexdigest(),
            "parts": list(parts),
            "shape": list(parts["train"].shape[1:]),
            "counts": {
                part: np.bincount(pixels.labels, minlength=classes).tolist()
                for part, pixels in parts.items()
            },
            "class_names": list(class_names),
            "mean": mean,
            "std": std,
            "files": files,
            "origin": dict(origin),
        }
        _write(folder / _MANIFEST, json.dumps(about, indent=1).encode())


def check(name: str, parts: Mapping[str, Labels], class_names: Sequence[str]) -> None:
    """Check the labels of all splits.

    Raises:
        DataError: A split is empty, a label is out of range, all training images are of one class,
            or a class has no training image but others.
    """
    for part, labels in parts.items():
        if not len(labels):
            raise DataError(f"the {part} split of {name} is empty")
        outside = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
        if len(outside):
            raise DataError(
                f"image {outside[0]} of the {part} split of {name} has label "
                f"{labels[outside[0]]}, and labels go from 0 to {len(class_names) - 1}"
            )
    trained = np.unique(parts["train"])
    if len(trained) < 2:
        raise DataError(
            f"all training images of {name} are of one class, {class_names[trained[0]]!r}; two "
            "are needed"
        )
    for part, labels in parts.items():
        for label in np.setdiff1d(labels, trained)[:1]:
            raise DataError(
                f"class {class_names[label]!r} of {name} has no training image, and "
                f"{np.sum(labels == label)} in the {part} split; leave them out, or add some"
            )


def _write_images(path: Path, pixels: Pixels) -> NDArray[np.int64]:
    """Write the images and return the counts of the values of each channel, (C, 256).

    Not through a memory map: a disk that fills up under one ends the process.
    """
    counts = np.zeros((pixels.shape[1], 256), dtype=np.int64)
    header = {"descr": "|u1", "fortran_order": False, "shape": pixels.shape}
    written = 0
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in pixels.chunks:
            file.write(np.ascontiguousarray(chunk).data)
            written += len(chunk)
            counts += levels(chunk)
    assert written == len(pixels.labels) == pixels.shape[0], (written, pixels.shape)
    return counts


def levels(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count how often each channel of images (B, C, H, W) has each value: (C, 256)."""
    channels = images.swapaxes(0, 1).reshape(images.shape[1], -1)
    return np.stack([np.bincount(channel, minlength=256) for channel in channels])


def statistics(counts: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Return the mean and the standard deviation of each channel, from its `levels`."""
    total = counts.sum(axis=1)
    mean = counts @ _LEVELS / total
    variance = (counts * (_LEVELS - mean[:, None]) ** 2).sum(axis=1) / (total - 1)
    return mean.tolist(), np.sqrt(variance).tolist()


def _files(part: str) -> tuple[str, str]:
    return f"{part}-images.npy", f"{part}-labels.npy"


def _again(slug: str) -> str:
    return f"remove the folder {root() / slug}, and fetch the set again by `samtune data fetch`"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Turn an error of the disk into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{root()} cannot be written to ({error}); make room or name another folder by "
            "SAMTUNE_DATA_ROOT"
        ) from error
