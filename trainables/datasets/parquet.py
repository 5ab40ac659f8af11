"""Folders of Parquet files in the image classification layout of Hugging Face.

The image column `image` or `img` is a struct<bytes, path>. The label column holds integers: it is
`label`, `fine_label` or `coarse_label`, whichever comes first, or the one that
`parquet:/path#coarse_label` names. The class names are in the schema's metadata. The split is in
the file's name, as in `train-00000-of-00001.parquet`, or in its folder's name.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path, PurePath
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.datasets import parquet_columns
from trainables.datasets.errors import DataError
from trainables.datasets.split_names import split_of

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})")


class Parquet:
    """The images in a folder's Parquet files, to be read in order, one row group at a time.

    Attributes:
        labels: The labels of each split.
        class_names: The name of each label.
        random_access: False: reading images in any other order is slow.
    """

    random_access = False

    def __init__(self, folder: Path, files: list[str], label: str = "") -> None:
        """Read the labels of all files; `label` names their column, "" the first known one.

        Raises:
            DataError: A file is missing, damaged, or not in this layout.
        """
        self.folder = folder
        self.labels: dict[str, Any] = {}
        self.class_names: list[str] = []
        self._groups: dict[str, list[tuple[str, Any, int]]] = {}
        self._columns: dict[str, tuple[str, str]] = {}
        self._lock = Lock()
        self._group = lru_cache(maxsize=2)(self._read_group)
        found: dict[str, list[Any]] = {}
        starts: dict[str, list[int]] = {}
        _check_shards(folder, files)
        for file, part in _parts(folder, files).items():
            opened, labels = self._open(file, label, files[0])
            # The first file decides which column has the labels.
            label = self._columns[file][1]
            found.setdefault(part, []).append(labels)
            for group in range(opened.num_row_groups):
                self._groups.setdefault(part, []).append((file, opened, group))
                starts.setdefault(part, []).append(opened.metadata.row_group(group).num_rows)
        if "train" not in found:
            names = ", ".join(Path(file).name for file in files[:5])
            raise DataError(f"{folder} has no train-*.parquet (it has: {names})")
        self.labels = {part: np.concatenate(held) for part, held in found.items()}
        self._starts = {part: np.cumsum([0, *held]) for part, held in starts.items()}
        if np.unique(self.labels.get("test", ())).tolist() == [-1]:
            # Hugging Face uses -1 for test images without published labels.
            del self.labels["test"]
        self.class_names = self.class_names or self._numbers()
        self._check_labels()

    def _open(self, file: str, label: str, first: str) -> tuple[Any, Any]:
        """Return a Parquet file and its labels, and take note of its columns and class names."""
        path = str(self.folder / file)
        try:
            opened = pq.ParquetFile(path)
            schema = opened.schema_arrow
            self._columns[file] = parquet_columns.columns(path, schema, label)
            label = self._columns[file][1]
            column = opened.read(columns=[label]).column(label)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        called = parquet_columns.class_names(path, schema, label)
        if called and self.class_names not in ([], called):
            raise DataError(f"{path} has other class names than {self.folder / first}")
        self.class_names = self.class_names or called
        return opened, parquet_columns.labels(path, label, column)

    def _numbers(self) -> list[str]:
        """Return the labels themselves as class names."""
        count = max(int(held.max(initial=0)) for held in self.labels.values()) + 1
        rows = sum(map(len, self.labels.values()))
        if count > rows > 0:
            raise DataError(
                f"{self.folder} has a label {count - 1} among {rows} images, and no class names; "
                "number the classes from 0 on"
            )
        return [str(label) for label in range(count)]

    def _check_labels(self) -> None:
        last = len(self.class_names) - 1
        for part, held in self.labels.items():
            for row in np.flatnonzero((held < 0) | (held > last))[:1]:
                file, inside = self._place(part, row)
                raise DataError(
                    f"image {row} of the {part} split of {self.folder} (row {inside} of column "
                    f"{self._columns[file][1]!r} in {file}) has label {held[row]}, and labels go "
                    f"from 0 to {last}"
                )

    def read(self, part: str, row: int) -> bytes:
        """Return the bytes of the image in a row of a split."""
        group = self._group_of(part, row)
        # Only one thread reads a group; the others wait and use the result.
        with self._lock:
            images = self._group(part, group)
        held = images[row - int(self._starts[part][group])].as_py()
        column = self._columns[self._groups[part][group][0]][0]
        return parquet_columns.image_bytes(self.where(part, row), column, held)

    def where(self, part: str, row: int) -> str:
        """Return words that name the image: its row and its file."""
        file, inside = self._place(part, row)
        return f"image {inside} of {self.folder / file}"

    def _place(self, part: str, row: int) -> tuple[str, int]:
        """Return the file of an image and its row there."""
        file = self._groups[part][self._group_of(part, row)][0]
        first = next(k for k, (other, _, _) in enumerate(self._groups[part]) if other == file)
        return file, row - int(self._starts[part][first])

    def _group_of(self, part: str, row: int) -> int:
        return int(np.searchsorted(self._starts[part], row, side="right")) - 1

    def _read_group(self, part: str, group: int) -> Any:
        file, opened, index = self._groups[part][group]
        try:
            images = opened.read_row_group(index, columns=[self._columns[file][0]])
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.folder / file} cannot be read: {error}") from error
        return images.column(0).combine_chunks()


def _parts(folder: Path, files: list[str]) -> dict[str, str]:
    """Return the split of each file, from its name or the names of its folders."""
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


def _check_shards(folder: Path, files: list[str]) -> None:
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
    first: dict[str, str] = {}
    for name, _ in there:
        # Two whole sets of shards in two folders: configurations of one repository.
        stem = PurePath(name)
        other = PurePath(first.setdefault(split_of(stem.name), name))
        if other.parent != stem.parent and split_of(stem.name):
            raise DataError(
                f"{folder / other} and {folder / stem} both hold all {split_of(stem.name)} images "
                f"of a data set; name one of the folders, as in parquet:{folder / stem.parent}"
            )
