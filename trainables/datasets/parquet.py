"""Any folder of Parquet files in the image classification layout of Hugging Face.

An image column `image` or `img` of struct<bytes, path>, a label column `label`, `fine_label` or
`coarse_label` of integers, class names in the schema's metadata, and the split in the file's name:
`train-00000-of-00001.parquet`.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from trainables.datasets.source import DataError

_IMAGES = ("image", "img")
_LABELS = ("label", "fine_label", "coarse_label")
_PARTS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}


class Parquet:
    """The images in a folder's Parquet files; to be read in order, a row group at a time."""

    random_access = False

    def __init__(self, folder: Path, files: list[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.folder, self.files = folder, files
        self.labels: dict[str, Any] = {}
        self.class_names: list[str] = []
        self._opened: dict[str, list[tuple[str, Any]]] = {}
        self._starts: dict[str, Any] = {}
        self._lock = Lock()
        self._group = lru_cache(maxsize=2)(self._read_group)
        found: dict[str, list[Any]] = {}
        starts: dict[str, list[int]] = {}
        for file in files:
            part = _part(file)
            try:
                opened = pq.ParquetFile(folder / file)
                image, label = _columns(f"{folder / file}", opened.schema_arrow)
                column = opened.read(columns=[label]).column(label)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{folder / file} cannot be read: {error}") from error
            if column.null_count:
                raise DataError(f"{folder / file} has {column.null_count} rows without a label")
            self.class_names = self.class_names or _class_names(opened.schema_arrow, label)
            found.setdefault(part, []).append(column.to_numpy().astype(np.int64))
            for group in range(opened.num_row_groups):
                self._opened.setdefault(part, []).append((file, (opened, group, image)))
                starts.setdefault(part, []).append(opened.metadata.row_group(group).num_rows)
        if "train" not in found:
            names = ", ".join(Path(file).name for file in files[:5])
            raise DataError(f"{folder} has no train-*.parquet (it has: {names})")
        self.labels = {part: np.concatenate(held) for part, held in found.items()}
        self._starts = {part: np.cumsum([0, *held]) for part, held in starts.items()}
        if not self.class_names:
            count = max(int(held.max(initial=-1)) for held in self.labels.values()) + 1
            self.class_names = [str(label) for label in range(count)]

    def read(self, part: str, row: int) -> bytes:
        group = self._group_of(part, row)
        # One thread reads a group, and the others find it read.
        with self._lock:
            images = self._group(part, group)
        raw = images[row - int(self._starts[part][group])].as_py()
        raw = raw.get("bytes") if isinstance(raw, dict) else raw
        if not isinstance(raw, bytes):
            raise DataError(f"{self.where(part, row)} has no bytes in it, only a path")
        return raw

    def where(self, part: str, row: int) -> str:
        group = self._group_of(part, row)
        file = self._opened[part][group][0]
        first = next(k for k, (other, _) in enumerate(self._opened[part]) if other == file)
        return f"image {row - int(self._starts[part][first])} of {self.folder / file}"

    def _group_of(self, part: str, row: int) -> int:
        return int(np.searchsorted(self._starts[part], row, side="right")) - 1

    def _read_group(self, part: str, group: int) -> Any:
        import pyarrow as pa

        file, (opened, index, image) = self._opened[part][group]
        try:
            return opened.read_row_group(index, columns=[image]).column(0).combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.folder / file} cannot be read: {error}") from error


def _part(file: str) -> str:
    """By the file's name, `test-00000-of-00001.parquet`, or its folder's, `test/0000.parquet`."""
    for word in (Path(file).name, Path(file).parent.name):
        said = re.match(r"(train|test|validation|valid|val)\b", word)
        if said:
            return _PARTS[said[1]]
    return "train"


def _columns(where: str, schema: Any) -> tuple[str, str]:
    names = schema.names
    found = []
    for what, known in (("image", _IMAGES), ("label", _LABELS)):
        column = next((name for name in known if name in names), None)
        if column is None:
            raise DataError(
                f"{where} has no {what} column; it has {', '.join(names) or 'none'}, and one "
                f"should be called {' or '.join(known)}"
            )
        found.append(column)
    return found[0], found[1]


def _class_names(schema: Any, label: str) -> list[str]:
    """As the metadata says; empty where it says nothing."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][label]["names"]
    except (KeyError, ValueError, TypeError):
        return []
    return [str(name) for name in names]
