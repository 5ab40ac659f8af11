"""Any folder of images: ImageNet's layout, TinyImageNet's, or one folder a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainables.datasets.errors import DataError
from trainables.datasets.layout import laid_out


class Folder:
    """The images that lie in `folder`; any of them can be read at any time."""

    random_access = True

    def __init__(self, folder: Path, files: list[str]) -> None:
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
        try:
            return (self.folder / self.names[part][row]).read_bytes()
        except OSError as error:
            raise DataError(f"{self.where(part, row)} cannot be read: {error}") from error

    def where(self, part: str, row: int) -> str:
        return str(self.folder / self.names[part][row])
