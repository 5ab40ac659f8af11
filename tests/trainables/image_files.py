"""Small images in files, and folders of them, for the tests of data sets."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(level: int = 0, mode: str = "RGB", form: str = "PNG") -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).convert(mode).save(held, form)
    return held.getvalue()


def put(path: Path, raw: bytes | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture() if raw is None else raw)


def classes(folder: Path, *names: str, count: int = 6, mode: str = "RGB") -> None:
    for label, name in enumerate(names):
        for k in range(count):
            put(folder / name / f"{k}.png", picture(20 * label + k, mode))
