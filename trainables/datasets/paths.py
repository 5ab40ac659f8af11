"""The user's own images, `folder:/path` and `parquet:/path`: mapped once, or streamed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from trainables.datasets import decode, layout, store
from trainables.datasets.decode import Encoded, encoded
from trainables.datasets.errors import DataError
from trainables.datasets.layout import ANNOTATIONS, SUFFIXES, UNREAD, with_test
from trainables.datasets.source import Part, Source
from trainables.sampling import Rows

# A trial maps a set up to this size in bytes by itself, which takes a minute on two cores.
MAPPED = 2 << 30
# A set that is not mapped has its mean and standard deviation from so many images.
_LOOKED_AT = 1024
# Memory maps of other versions are made anew.
_READER = f"{layout.VERSION}.{decode.VERSION}"


class Found(Protocol):
    """The images that a folder holds."""

    labels: dict[str, Rows]
    class_names: list[str]
    random_access: bool

    def read(self, part: str, row: int) -> bytes:
        """Return the bytes of the image in a row of a split."""

    def where(self, part: str, row: int) -> str:
        """Return words that name the image."""


@dataclass(frozen=True)
class PathSet:
    """The images in a folder, and the place of their memory maps.

    Attributes:
        name: The name that a space gives the set.
        form: `folder` or `parquet`.
        folder: The folder of the images.
        image_size: The side of the decoded images; 0 keeps theirs.
        labels: The label column of Parquet files; "" for the first that is known.
    """

    name: str
    form: str
    folder: Path
    image_size: int
    labels: str = ""

    @property
    def slug(self) -> str:
        """The name of the folder of the memory maps."""
        column = f"#{self.labels}" if self.labels else ""
        words = f"{self.form}:{self.folder}{column} {self.image_size}"
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", self.folder.name)[:40]
        return f"{self.form}-{stem}-{hashlib.sha256(_bytes(words)).hexdigest()[:12]}"

    def source(self) -> Source:
        """Return the set: mapped, or streamed if it is large and `fetch` has not mapped it.

        Raises:
            DataError: Images are missing or bad, or a Parquet set is too large to be streamed.
        """
        source = store.opened(self.slug) if self.is_mapped() else None
        if source is not None:
            return source
        files = self._files()
        found = self._found(list(files))
        parts = self._parts(found)
        needed = sum(np.prod(images.shape) * len(images) for images, _ in parts.values())
        if needed <= MAPPED:
            return self.fetch()
        if not found.random_access:
            option = f" --image-size {self.image_size}" if self.image_size else ""
            raise DataError(
                f"{self.name} takes {needed / 1e9:.1f} GB of {store.root()}; "
                f"to make it ready type: samtune data fetch {self.name}{option}"
            )
        # Not the times: they differ from machine to machine.
        sizes = {file: seen.partition(" ")[0] for file, seen in files.items()}
        return self._streamed(parts, found.class_names, _mark(sizes))

    def is_mapped(self) -> bool:
        """Return True if the memory maps are of the files as they are."""
        about = store.manifest(self.slug)
        if about is None or not is_current(about):
            return False
        return bool(about["origin"]["mark"] == _mark(self._files()))

    def fetch(self, say: store.Say = lambda _: None) -> Source:
        """Map the set unless that is done, and return it; one process maps, the others wait."""
        with store.locked(self.slug, say):
            files = self._files()
            source = self._mapped(files)
            if source is None:
                found = self._found(list(files))
                pixels = {
                    part: store.Pixels(
                        (len(images), *images.shape),
                        (chunk.numpy() for chunk in images.images()),
                        labels,
                    )
                    for part, (images, labels) in self._parts(found).items()
                }
                say(f"{self.name}: {sum(len(p.labels) for p in pixels.values()):,} images")
                origin = {
                    "form": self.form,
                    "folder": str(self.folder),
                    "image_size": self.image_size,
                    "mark": _mark(files),
                    "reader": _READER,
                    "sha256": self.content(files),
                }
                with store.workspace(self.slug) as folder:
                    store.write(folder, self.name, pixels, found.class_names, origin)
                source = store.opened(self.slug)
        assert source is not None
        return source

    def content(self, files: Iterable[str] | None = None) -> str:
        """Return the SHA-256 of the names and bytes of all files."""
        every = hashlib.sha256()
        for file in self._files() if files is None else files:
            try:
                with (self.folder / file).open("rb") as opened:
                    sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
            except OSError as error:
                raise _unreadable(error) from error
            every.update(_bytes(f"{sha256}  {file}\n"))
        return every.hexdigest()

    def _mapped(self, files: Mapping[str, str]) -> Source | None:
        """Return the mapped set if it is of these files: of equal sizes and times, or bytes."""
        about = store.manifest(self.slug)
        if about is None or not is_current(about):
            return None
        origin, mark = about["origin"], _mark(files)
        if origin["mark"] != mark:
            if origin["sha256"] != self.content(files):
                return None
            store.remember(self.slug, {**origin, "mark": mark})
        return store.opened(self.slug)

    def _files(self) -> dict[str, str]:
        """Return the files that count, in order, each with its size and time."""
        if not self.folder.is_dir():
            raise DataError(f"{self.name} is not there: {self.folder} is no folder")
        endings = (".parquet",) if self.form == "parquet" else (*SUFFIXES, ANNOTATIONS)
        unread = () if self.form == "parquet" else UNREAD
        files = {}
        for parent, names in _walk(self.folder):
            within = Path(parent).relative_to(self.folder).as_posix()
            for name in names:
                if name.startswith("."):
                    continue
                path = os.path.join(parent, name)
                if name.lower().endswith(unread):
                    raise DataError(
                        f"{path} is an image of a kind that is not read; make it one of "
                        f"{', '.join(SUFFIXES)}, or take it out"
                    )
                if name.lower().endswith(endings):
                    try:
                        about = os.stat(path)
                    except OSError as error:
                        raise _unreadable(error) from error
                    file = name if within == "." else f"{within}/{name}"
                    files[file] = f"{about.st_size} {about.st_mtime_ns}"
        if not files:
            raise DataError(f"{self.folder} holds no file that ends in {' or '.join(endings)}")
        return dict(sorted(files.items()))

    def _found(self, files: list[str]) -> Found:
        if self.form == "parquet":
            from trainables.datasets.parquet import Parquet

            return Parquet(self.folder, files, self.labels)
        from trainables.datasets.folder import Folder

        return Folder(self.folder, files)

    def _parts(self, found: Found) -> dict[str, tuple[Encoded, Rows]]:
        """Return images and labels of training, test and perhaps validation, of one shape."""
        store.check(self.name, found.labels, found.class_names)
        parts: dict[str, tuple[Encoded, Rows]] = {}
        for part, (held, rows) in with_test(self.name, found.labels).items():
            read, where = partial(found.read, held), partial(found.where, held)
            images = encoded(read, where, rows.tolist(), self.image_size)
            parts[part] = images, found.labels[held][rows]
        # Grey images beside a split in colour are decoded to colour.
        channels = max(images.shape[0] for images, _ in parts.values())
        parts = {
            part: (dataclasses.replace(images, shape=(channels, *images.shape[1:])), labels)
            for part, (images, labels) in parts.items()
        }
        shapes = {part: images.shape for part, (images, _) in parts.items()}
        if len(set(shapes.values())) > 1:
            raise DataError(
                f"the images of {self.name} differ in channels, height and width: "
                f"{', '.join(f'{part} {shape}' for part, shape in shapes.items())}; set image_size"
            )
        return parts

    def _streamed(
        self, parts: dict[str, tuple[Encoded, Rows]], class_names: list[str], sha256: str
    ) -> Source:
        images, _ = parts["train"]
        step = max(1, len(images) // _LOOKED_AT)
        seen = [images.image(row) for row in range(0, len(images), step)]
        mean, std = store.statistics(store.levels(torch.stack(seen).numpy()))
        return Source(
            self.name,
            {part: Part(images, held) for part, (images, held) in parts.items()},
            tuple(class_names),
            sha256,
            tuple(mean),
            tuple(std),
        )


def is_current(about: Mapping[str, Any]) -> bool:
    """Return True if a manifest is of memory maps that this version would make again."""
    return bool(about["origin"].get("reader") == _READER)


def _mark(files: Mapping[str, str]) -> str:
    lines = [f"{about} {file}\n" for file, about in files.items()]
    return hashlib.sha256(_bytes("".join(lines))).hexdigest()


def _bytes(words: str) -> bytes:
    """Encode words with file names in them, which need not be UTF-8 on the disk."""
    return words.encode(errors="surrogateescape")


def _walk(top: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder in `top` that is not hidden with its files; links are followed."""

    def refuse(error: OSError) -> None:
        raise _unreadable(error) from error

    ways = {str(top): {os.path.realpath(top)}}
    for parent, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        way = ways.pop(parent)
        inside = {name: os.path.realpath(os.path.join(parent, name)) for name in folders}
        # A link to one of its own parent folders would be followed without end.
        folders[:] = [
            name for name, real in inside.items() if not name.startswith(".") and real not in way
        ]
        ways.update({os.path.join(parent, name): {*way, inside[name]} for name in folders})
        yield parent, names


def _unreadable(error: OSError) -> DataError:
    return DataError(f"{error.filename} cannot be read: {error.strerror}")
