"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), and their corrupted test sets.

The official archives hold pickles. They are read after the archive's checksums have been checked,
by an unpickler that makes arrays and nothing else.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.datasets import store
from trainables.datasets.archive import ARCHIVES, checked, missing, tar_members
from trainables.datasets.errors import DataError
from trainables.datasets.source import Part, Source

CORRUPTIONS = (
    *("brightness", "contrast", "defocus_blur", "elastic_transform", "fog", "frost"),
    *("gaussian_blur", "gaussian_noise", "glass_blur", "impulse_noise", "jpeg_compression"),
    *("motion_blur", "pixelate", "saturate", "shot_noise", "snow", "spatter", "speckle_noise"),
    "zoom_blur",
)
_HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
_TRAINING = {f"data_batch_{k}" for k in range(1, 6)} | {"train"}
_TEST = {"test_batch", "test"}
_NAMES = {"batches.meta", "meta"}


def cifar(name: str) -> Source:
    """Return `cifar10` or `cifar100`: 50,000 and 10,000 images of 3 x 32 x 32."""
    source = store.opened(name)
    if source is None:
        raise missing(name)
    return source


def fetch_cifar(name: str, from_file: Path | None, say: store.Say) -> None:
    """Make the set's memory maps from its archive; the caller holds the set's lock."""
    with store.workspace(name) as folder:
        with checked(name, from_file, folder, say) as path:
            parts, class_names = _read(path)
        store.write(folder, name, parts, class_names, ARCHIVES[name].origin)


def corrupted(name: str, corruption: str, severity: int) -> Part:
    """Return the test images under a corruption, from `cifar10c` or `cifar100c`.

    A file there holds the 10,000 images once per severity, 50,000 x 32 x 32 x 3.
    """
    folder = store.root() / f"{name}c"
    if not folder.is_dir():
        raise missing(folder.name)
    path, clean = folder / f"{corruption}.npy", cifar(name).parts["test"]
    count = len(clean.labels)
    images, labels = _array(path, np.uint8), _array(folder / "labels.npy", np.integer)
    if images.shape != (5 * count, 32, 32, 3) or len(labels) != 5 * count:
        raise DataError(f"{path} has images {images.shape}, not {(5 * count, 32, 32, 3)}")
    rows = slice((severity - 1) * count, severity * count)
    if not np.array_equal(labels[rows], clean.labels):
        raise DataError(f"{folder / 'labels.npy'} has other labels than the test images of {name}")
    return Part(images[rows].transpose(0, 3, 1, 2), clean.labels)


def fetch_corrupted(name: str, from_file: Path | None, say: store.Say) -> None:
    """Put the arrays of `cifar10c` or `cifar100c` into the data root, under the set's lock."""
    with (
        store.workspace(name) as folder,
        checked(name, from_file, folder, say) as path,
    ):
        for member, raw in tar_members(path, lambda member: member.endswith(".npy")):
            store.keep(folder / member.rsplit("/", 1)[-1], raw)
        store.write_sums(folder)


def _array(path: Path, kind: type) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; fetch {path.parent.name} again") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not np.issubdtype(array.dtype, kind):
        raise DataError(f"{path} holds {array.dtype}, not {kind.__name__}")
    return array


def _read(path: Path) -> tuple[dict[str, store.Pixels], list[str]]:
    found = {
        name.rsplit("/", 1)[-1]: _unpickled(raw, f"{path}: {name}")
        for name, raw in tar_members(path, _is_wanted)
    }
    parts = {}
    for part, files in (("train", _TRAINING), ("test", _TEST)):
        batches = [found[name] for name in sorted(files & found.keys())]
        if not batches:
            raise DataError(f"{path} holds none of {', '.join(sorted(files))}; is it CIFAR's?")
        parts[part] = _part(path, batches)
    meta: dict[str, Any] = next((found[name] for name in _NAMES if name in found), {})
    names: Any = meta.get("fine_label_names", meta.get("label_names"))
    if not isinstance(names, list):
        raise DataError(f"{path} does not say what its classes are called; is it CIFAR's?")
    return parts, [str(name) for name in names]


def _part(path: Path, batches: list[dict[str, Any]]) -> store.Pixels:
    try:
        flat = [np.asarray(batch["data"], dtype=np.uint8) for batch in batches]
        labels = [
            np.asarray(batch["fine_labels" if "fine_labels" in batch else "labels"], np.int64)
            for batch in batches
        ]
        images = [
            pixels.reshape(len(held), 3, 32, 32) for pixels, held in zip(flat, labels, strict=True)
        ]
        every = np.concatenate(labels)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not laid out as CIFAR is: {error}") from error
    return store.Pixels((len(every), 3, 32, 32), images, every)


def _is_wanted(member: str) -> bool:
    return member.rsplit("/", 1)[-1] in _TRAINING | _TEST | _NAMES


class _Arrays(pickle.Unpickler):
    """An unpickler of NumPy arrays and plain values, which refuses to call anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, and holds more than arrays"
            )
        return super().find_class(module, name)


def _unpickled(raw: bytes, where: str) -> dict[str, Any]:
    try:
        found = _Arrays(io.BytesIO(raw), encoding="latin1").load()
    except Exception as error:
        raise DataError(f"{where} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{where} holds a {type(found).__name__}, not a batch of images")
    return found
