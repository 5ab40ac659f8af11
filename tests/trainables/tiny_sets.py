"""Tiny data sets in the official layouts, and samtune's answers to what is typed."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import CIFAR10
from PIL import Image

from trainables.data import DataError
from trainables.datasets import catalogue
from trainables.datasets.archive import ARCHIVES

CLASSES = ("ant", "bee", "cow")


def left_in(root: Path) -> list[str]:
    """Return the names in a folder, without those of locks."""
    return sorted(path.name for path in root.glob("*") if path.suffix != ".lock")


def pixels(count: int, seed: int, side: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def tar_of(files: dict[str, bytes], extra: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, raw in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(raw)
            tar.addfile(about, io.BytesIO(raw))
        for about in extra:
            tar.addfile(about)
    return packed.getvalue()


def cifar10_files(labels: list[int] | None = None) -> dict[str, bytes]:
    """50 training and 20 test images of ten classes."""
    files: dict[str, object] = {
        f"data_batch_{k}": {
            "data": pixels(10, k).reshape(10, -1),
            "labels": list(range(10)) if labels is None else labels,
        }
        for k in range(1, 6)
    }
    files["test_batch"] = {"data": pixels(20, 9).reshape(20, -1), "labels": [*range(10)] * 2}
    files["batches.meta"] = {"label_names": CIFAR10}
    inside = {name: pickle.dumps(content, protocol=2) for name, content in files.items()}
    return {f"cifar-10-batches-py/{name}": raw for name, raw in inside.items()}


def official(monkeypatch: pytest.MonkeyPatch, name: str, raw: bytes, url: str = "") -> None:
    """Makes `raw` the official archive of a set, at `url`."""
    archive = dataclasses.replace(
        ARCHIVES[name],
        md5=hashlib.md5(raw).hexdigest(),
        sha256=hashlib.sha256(raw).hexdigest(),
        size=len(raw),
    )
    url = f"{url}/{archive.file}" if url else archive.url
    monkeypatch.setitem(ARCHIVES, name, dataclasses.replace(archive, url=url))


def png(image: np.ndarray, form: str = "PNG") -> bytes:
    held = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(held, form)
    return held.getvalue()


def tiny_files() -> dict[str, bytes]:
    """TinyImageNet's layout: three classes of four training images, six validation images."""
    inside = "tiny-imagenet-200"
    files = {f"{inside}/wnids.txt": b"n01\nn02\nn03\n"}
    for label, name in enumerate(("n01", "n02", "n03")):
        for k in range(4):
            raw = png(pixels(1, 10 * label + k, 64)[0])
            files[f"{inside}/train/{name}/images/{name}_{k}.JPEG"] = raw
        files[f"{inside}/train/{name}/{name}_boxes.txt"] = b""
    rows = []
    for k in range(6):
        files[f"{inside}/val/images/val_{k}.JPEG"] = png(pixels(1, 100 + k, 64)[0])
        files[f"{inside}/test/images/test_{k}.JPEG"] = png(pixels(1, 200 + k, 64)[0])
        rows.append(f"val_{k}.JPEG\tn0{k % 3 + 1}\t0\t32\t44\t62")
    files[f"{inside}/val/val_annotations.txt"] = "\n".join(rows).encode()
    return files


def zip_of(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    return packed.getvalue()


def folder_of(
    folder: Path, count: int = 10, side: tuple[int, int] = (8, 8), parts: tuple[str, ...] = ("",)
) -> Path:
    for part in parts:
        for label, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for k in range(count):
                image = np.full((3, *side), 20 * label + k, dtype=np.uint8)
                (folder / part / name / f"{k}.png").write_bytes(png(image))
    return folder


def refused(name: str, path: Path, root: Path, match: str) -> None:
    with pytest.raises(DataError, match=match):
        catalogue.fetch(name, path, 0, print)
    assert left_in(root) == []
