"""Encoded images made uint8 tensors, all of one size.

By Pillow: torchvision's own decoders are deprecated since its 0.29, and its data sets use Pillow.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trainables.datasets.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

# So many images tell whether a set is grey, and what size its images have.
_LOOKED_AT = 16
_FORMATS = ("JPEG", "PNG", "WEBP")
_GREY = {"1", "L", "LA"}
_BILINEAR = 2


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
        image = _opened(self.read(key), partial(self.where, key))
        mode = "L" if channels == 1 else "RGB"
        if image.size != (width, height) and not self.resize:
            raise DataError(
                f"{self.where(key)} is {image.height} x {image.width} pixels and the first image "
                f"{height} x {width}; set task.image_size to bring them all to one size"
            )
        if channels == 1 and image.mode not in _GREY:
            raise DataError(
                f"{self.where(key)} is in colour ({image.mode}), and those that were looked at "
                "first are grey; save all of them in colour, or all in grey"
            )
        try:
            if image.size != (width, height):
                # JPEG can be decoded at a half, a quarter or an eighth in much less time.
                image.draft(mode, (width, height))
                side = min(image.size)
                left, top = (image.width - side) / 2, (image.height - side) / 2
                box = (left, top, left + side, top + side)
                image = image.convert(mode).resize((width, height), _BILINEAR, box)
            pixels = np.array(image if image.mode == mode else image.convert(mode))
        except Exception as error:
            raise DataError(f"{self.where(key)} does not decode: {error}") from error
        return torch.from_numpy(pixels.reshape(height, width, channels)).permute(2, 0, 1)

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
    seen = [_opened(read(key), partial(where, key)) for key in looked_at]
    channels = 1 if all(image.mode in _GREY for image in seen) else 3
    width, height = (image_size, image_size) if image_size else seen[0].size
    return Encoded(read, where, keys, (channels, height, width), bool(image_size))


def _opened(raw: bytes, where: Callable[[], str]) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        if not raw:
            raise ValueError("it is empty")
        image = Image.open(io.BytesIO(raw), formats=_FORMATS)
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"its values have more than 8 bits ({image.mode})")
    except UnidentifiedImageError:
        formats = " or ".join(_FORMATS)
        raise DataError(f"{where()} does not decode: it is no {formats}") from None
    # Pillow's readers fail in many ways, SyntaxError among them.
    except Exception as error:
        raise DataError(f"{where()} does not decode: {error}") from error
    return image
