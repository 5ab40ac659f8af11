"""TinyImageNet: 200 classes at 64 x 64. Its official validation images are our test images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainables.datasets import store
from trainables.datasets.archive import ARCHIVES, checked, missing, zip_members
from trainables.datasets.decode import encoded
from trainables.datasets.errors import DataError
from trainables.datasets.layout import laid_out
from trainables.datasets.source import Source

NAME = "tinyimagenet"


def tinyimagenet() -> Source:
    """Return 100,000 and 10,000 images of 3 x 64 x 64; classes are named by WordNet numbers."""
    source = store.opened(NAME)
    if source is None:
        raise missing(NAME)
    return source


def fetch_tinyimagenet(from_file: Path | None, say: store.Say) -> None:
    """Make the set's memory maps from its archive; the caller holds the set's lock."""
    with (
        store.workspace(NAME) as folder,
        checked(NAME, from_file, folder, say) as path,
        zip_members(path) as (names, read),
    ):
        inside = {name.partition("/")[2]: name for name in names}
        try:
            parts, class_names = laid_out(inside, lambda file: read(inside[file]))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        if set(parts) != {"train", "val"}:
            raise DataError(f"{path} has {' and '.join(parts)} where train and val should be")
        pixels = {}
        for part, found in (("train", "train"), ("test", "val")):
            files = [inside[file] for file, _ in parts[found]]
            images = encoded(read, lambda file: f"{path}: {file}", files, 0)
            pixels[part] = store.Pixels(
                (len(images), *images.shape),
                (chunk.numpy() for chunk in images.images()),
                np.array([label for _, label in parts[found]], dtype=np.int64),
            )
        store.write(folder, NAME, pixels, class_names, ARCHIVES[NAME].origin)
