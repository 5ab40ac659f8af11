"""Folders of images: ImageNet's layout, TinyImageNet's, or one folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainables.datasets.errors import DataError
from trainables.datasets.layout import laid_out


class Folder:
    """The images in a folder.

    Attributes:
        labels: The labels of each split.
        class_names: The name of each label.
        random_access: True: images can be read in any order.
    """

    random_access = True

    def __init__(self, folder: Path, files: list[str]) -> None:
        """Find the split and the class of each file.

        Raises:
            DataError: The files have no known layout.
        """
        self.folder, self.files = folder, files
        try:
            parts, self.class_names = laid_out(files, lambda file: (folder / file).read_bytes())
        except (DataError, OSError) as error:
            raise DataError(f"{folder}: {error}") from error
        self.names = {part: [file for file, _ in held] for part, held in parts.items()}
        self.labels = {
            part: np.array([label for _, label in held], dtype=np.int64)
            for part, held in parts.items()
        }

    def read(self, part: str, row: int) -> bytes:
        """Return the bytes of the image in a row of a split."""
        try:
            return (self.folder / self.names[part][row]).read_bytes()
        except OSError as error:
            raise DataError(f"{self.where(part, row)} cannot be read: {error}") from error

    def where(self, part: str, row: int) -> str:
        """Return the path of the image."""
        return str(self.folder / self.names[part][row])
