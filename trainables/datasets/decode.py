"""Encoded images (JPEG, PNG, WebP) made uint8 tensors by torchvision, all of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from trainables.datasets.source import DataError

# So many images tell whether a set is grey, and what size its images have.
_LOOKED_AT = 16


@dataclass(frozen=True)
class Encoded:
    """Images as files hold them: `read(key)` gives the bytes of one, `where(key)` names it.

    Decoded they are uint8 (C, H, W) of `shape`. With `resize` the shorter side is brought to that
    size and the middle is cut out; without, an image of another size is an error.
    """

    read: Callable[[Any], bytes]
    where: Callable[[Any], str]
    keys: Sequence[Any]
    shape: tuple[int, int, int]
    resize: bool

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, index: int) -> Tensor:
        """Image `index`, uint8 (C, H, W). Raises DataError, which names it, if it is bad."""
        channels, height, width = self.shape
        key = self.keys[index]
        image = _decoded(self.read(key), channels, partial(self.where, key))
        if image.shape[1:] == (height, width):
            return image
        if not self.resize:
            had = f"{image.shape[1]} x {image.shape[2]}"
            raise DataError(
                f"{self.where(key)} is {had} pixels and the first image {height} x {width}; "
                "set task.image_size to bring them all to one size"
            )
        return _resized(image, height)

    def images(self, chunk: int = 2048) -> Iterator[Tensor]:
        """All images in order, `chunk` at a time: uint8 (B, C, H, W)."""
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(self), chunk):
                rows = range(start, min(start + chunk, len(self)))
                out = torch.empty((len(rows), *self.shape), dtype=torch.uint8)
                share = [rows[k::threads] for k in range(threads)]
                # The list raises what a thread raised.
                list(pool.map(self.fill, [out[k::threads] for k in range(threads)], share))
                yield out

    def fill(self, out: Tensor, rows: Iterable[int]) -> None:
        """Decodes the images `rows` into `out`, uint8 (B, C, H, W)."""
        for image, row in zip(out, rows, strict=True):
            image.copy_(self.image(row))


def encoded(
    read: Callable[[Any], bytes], where: Callable[[Any], str], keys: Sequence[Any], image_size: int
) -> Encoded:
    """Finds out what the images decode to; `image_size` 0 keeps the size that they have.

    Raises DataError when there is none, or one that was looked at is bad.
    """
    if not keys:
        raise DataError("there is no image")
    looked_at = keys[:: max(1, len(keys) // _LOOKED_AT)]
    seen = [_decoded(read(key), None, partial(where, key)) for key in looked_at]
    channels = 1 if all(len(image) == 1 for image in seen) else 3
    height, width = (image_size, image_size) if image_size else seen[0].shape[1:]
    return Encoded(read, where, keys, (channels, height, width), bool(image_size))


def _decoded(raw: bytes, channels: int | None, where: Callable[[], str]) -> Tensor:
    try:
        from torchvision.io import ImageReadMode, decode_image
    except Exception as error:
        raise DataError(
            f"images are decoded by torchvision, and it cannot be imported ({error}); "
            "`samtune doctor` says more"
        ) from error
    modes = {None: ImageReadMode.UNCHANGED, 1: ImageReadMode.GRAY, 3: ImageReadMode.RGB}
    try:
        # frombuffer takes no empty buffer, and warns of one that it may not write to.
        data = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        image: Tensor = decode_image(data, modes[channels])
        return image
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if raw else "it is empty"
        raise DataError(f"{where()} does not decode: {reason}") from error


def _resized(image: Tensor, size: int) -> Tensor:
    height, width = image.shape[1:]
    scale = size / min(height, width)
    sides = [max(size, round(side * scale)) for side in (height, width)]
    image = interpolate(image[None], sides, mode="bilinear", antialias=True)[0]
    top, left = ((side - size) // 2 for side in image.shape[1:])
    return image[:, top : top + size, left : left + size]
