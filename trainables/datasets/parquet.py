"""Any folder of Parquet files in the image classification layout of Hugging Face.

An image column `image` or `img` of struct<bytes, path>, a label column `label`, `fine_label` or
`coarse_label` of integers (the first of these, or what `parquet:/path#coarse_label` names), class
names in the schema's metadata, and the split in the file's name, `train-00000-of-00001.parquet`,
or in its folder's.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path, PurePath
from threading import Lock
from typing import Any

import numpy as np

from samtune.optimizers.knobs import nearest
from trainables.datasets.errors import DataError, WordError
from trainables.datasets.split_names import split_of
from trainables.deal import Rows

_IMAGES = ("image", "img")
_LABELS = ("label", "fine_label", "coarse_label")
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})")


class Parquet:
    """The images in a folder's Parquet files; to be read in order, a row group at a time.

    `label` is the column of the labels; "" for the first that is known.
    """

    random_access = False

    def __init__(self, folder: Path, files: list[str], label: str = "") -> None:
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
        _refuse_missing_shards(folder, files)
        for file, part in _parts(folder, files).items():
            try:
                opened = pq.ParquetFile(folder / file)
                image, label = _columns(f"{folder / file}", opened.schema_arrow, label)
                column = opened.read(columns=[label]).column(label)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{folder / file} cannot be read: {error}") from error
            called = _class_names(opened.schema_arrow, label)
            if called and self.class_names not in ([], called):
                raise DataError(f"{folder / file} has other class names than {folder / files[0]}")
            self.class_names = self.class_names or called
            found.setdefault(part, []).append(_numbers(f"{folder / file}", label, column))
            for group in range(opened.num_row_groups):
                self._opened.setdefault(part, []).append((file, (opened, group, image)))
                starts.setdefault(part, []).append(opened.metadata.row_group(group).num_rows)
        if "train" not in found:
            names = ", ".join(Path(file).name for file in files[:5])
            raise DataError(f"{folder} has no train-*.parquet (it has: {names})")
        self.labels = {part: np.concatenate(held) for part, held in found.items()}
        self._starts = {part: np.cumsum([0, *held]) for part, held in starts.items()}
        if np.unique(self.labels.get("test", ())).tolist() == [-1]:
            # How Hugging Face marks test images whose labels are kept back.
            del self.labels["test"]
        if not self.class_names:
            count = max(int(held.max(initial=0)) for held in self.labels.values()) + 1
            rows = sum(map(len, self.labels.values()))
            if count > rows > 0:
                raise DataError(
                    f"{folder} has a label {count - 1} among {rows} images, and no class names; "
                    "number the classes from 0 on"
                )
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


def _parts(folder: Path, files: list[str]) -> dict[str, str]:
    """Each file's part, by its name, `test-00000-of-00001.parquet`, or its folders'."""
    parts = {
        file: next(filter(None, map(split_of, reversed(PurePath(file).parts))), "")
        for file in files
    }
    silent = [file for file, part in parts.items() if not part]
    if len(silent) == len(files):
        return dict.fromkeys(files, "train")
    if silent:
        raise DataError(
            f"{folder / silent[0]} does not say whether it is train, validation or test, and "
            "others do; name it by one of them, or take it out"
        )
    return parts


def _refuse_missing_shards(folder: Path, files: list[str]) -> None:
    there: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if said := _SHARD.match(file):
            there.setdefault((said[1], int(said[3])), set()).add(int(said[2]))
    for (name, count), numbers in there.items():
        if missing := set(range(count)) - numbers:
            raise DataError(
                f"{folder / name}-{min(missing):05}-of-{count:05}.parquet is missing; get it, or "
                "if the others are all you want, leave the count out of their names"
            )


def _columns(where: str, schema: Any, label: str) -> tuple[str, str]:
    if label and label not in schema.names:
        raise WordError(
            f"{where} has no column {label!r}{nearest(label, schema.names)} "
            f"(it has: {', '.join(schema.names)})"
        )
    image = _first(where, schema, "image", _IMAGES)
    return image, label or _first(where, schema, "label", _LABELS)


def _first(where: str, schema: Any, what: str, known: tuple[str, ...]) -> str:
    for name in known:
        if name in schema.names:
            return name
    naming = "; or name yours, as in parquet:/path#column" if what == "label" else ""
    raise DataError(
        f"{where} has no {what} column; it has {', '.join(schema.names) or 'none'}, and one "
        f"should be called {' or '.join(known)}{naming}"
    )


def _numbers(where: str, label: str, column: Any) -> Rows:
    import pyarrow as pa

    if column.null_count:
        raise DataError(f"{where} has {column.null_count} rows without a label")
    if not (pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        raise DataError(
            f"the labels in column {label!r} of {where} are of type {column.type}, and must be "
            "whole numbers from 0 on; in Hugging Face's datasets "
            f'`class_encode_column("{label}")` makes them that'
        )
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _class_names(schema: Any, label: str) -> list[str]:
    """As the metadata says; empty where it says nothing."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][label]["names"]
    except (KeyError, ValueError, TypeError):
        return []
    return [str(name) for name in names]
