"""Encoded images decoded to uint8 tensors of one size.

Pillow decodes them: torchvision's own decoders are deprecated since its 0.29, and its data sets
use Pillow.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from trainables.datasets.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

# Changes whenever the same file is decoded to other pixels, so that old memory maps are replaced.
VERSION = 2
# The number of images that decide if a set is grey.
_LOOKED_AT = 16
# Hugging Face's datasets stores images that are no PNG by their mode as TIFF.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
_GREY = {"1", "L", "LA"}
_BILINEAR = 2
_PILLOW = r"PIL\."

# Pillow logs some errors before it raises them.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Crops:
    """Random parts of whole images, cut out as these are decoded (Szegedy et al. 2015).

    The part of an image follows from the seed, the epoch and the image's number alone, so a
    resumed trial and every variant see the same.
    """

    seed: int
    epoch: int

    def box(self, index: int, width: int, height: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of the part of image `index`, in pixels.

        It has 8 to 100 % of the area, and width / height is log-uniform in 3/4 to 4/3. The first
        of ten draws that fits is taken, as in torchvision's RandomResizedCrop. If none fits, it
        is the middle of the image.
        """
        rng = np.random.default_rng((self.seed, self.epoch, index, 4))
        areas = width * height * rng.uniform(0.08, 1, 10)
        ratios = (4 / 3) ** rng.uniform(-1, 1, 10)
        wide, tall = np.sqrt(areas * ratios).round(), np.sqrt(areas / ratios).round()
        fits = np.flatnonzero((wide >= 1) & (wide <= width) & (tall >= 1) & (tall <= height))
        if len(fits):
            w, h = int(wide[fits[0]]), int(tall[fits[0]])
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        else:
            w, h = min(width, round(4 / 3 * height)), min(height, round(4 / 3 * width))
            left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


@dataclass(frozen=True)
class Encoded:
    """Images as files hold them.

    Attributes:
        read: Returns the bytes of the image with such a key.
        where: Returns words that name the image with such a key.
        keys: One key per image.
        shape: The decoded shape (C, H, W).
        resize: If true, the shorter side is resized to the side of `shape`, which is square, and
            the middle is cropped. If false, an image of another size is an error.
    """

    read: Callable[[Any], bytes]
    where: Callable[[Any], str]
    keys: Sequence[Any]
    shape: tuple[int, int, int]
    resize: bool

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, index: int, crops: Crops | None = None) -> Tensor:
        """Return image `index` as uint8 (C, H, W), or with crops its part of this epoch.

        Raises:
            DataError: The image is bad, or of another size; the message names it.
        """
        channels, height, width = self.shape
        key = self.keys[index]
        where = partial(self.where, key)
        image = _opened(self.read(key), where)
        mode = "L" if channels == 1 else "RGB"
        if channels == 1 and image.mode not in _GREY:
            raise DataError(
                f"{where()} is in colour ({image.mode}), and those that were looked at "
                "first are grey; save all of them in colour, or all in grey"
            )
        with _named(where):
            if self.resize and crops is None and image.size != (width, height):
                # JPEG can be decoded at a half, a quarter or an eighth in much less time.
                image.draft(mode, (width, height))
            _turn_upright(image)
        if image.size != (width, height) and not self.resize:
            raise DataError(
                f"{where()} is {image.height} x {image.width} pixels and the first image "
                f"{height} x {width}; set task.image_size to bring them all to one size"
            )
        with _named(where):
            image = image if image.mode == mode else image.convert(mode)
            if crops is not None:
                box = crops.box(index, *image.size)
                image = image.resize((width, height), _BILINEAR, box)
            elif image.size != (width, height):
                image = image.resize((width, height), _BILINEAR, _middle(*image.size))
            pixels = np.array(image)
        return torch.from_numpy(pixels.reshape(height, width, channels)).permute(2, 0, 1)

    def images(self, chunk: int = 2048) -> Iterator[Tensor]:
        """Yield all images in order, `chunk` at a time, as uint8 (B, C, H, W)."""
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(self), chunk):
                rows = range(start, min(start + chunk, len(self)))
                out = torch.empty((len(rows), *self.shape), dtype=torch.uint8)
                share = [rows[k::threads] for k in range(threads)]
                # The list raises what a thread raised.
                list(pool.map(self.fill, [out[k::threads] for k in range(threads)], share))
                yield out

    def fill(self, out: Tensor, rows: Iterable[int], crops: Crops | None = None) -> None:
        """Decode the images `rows` into `out`, uint8 (B, C, H, W)."""
        for image, row in zip(out, rows, strict=True):
            image.copy_(self.image(row, crops))


def encoded(
    read: Callable[[Any], bytes], where: Callable[[Any], str], keys: Sequence[Any], image_size: int
) -> Encoded:
    """Return images with the shape that they decode to.

    Args:
        read: Returns the bytes of the image with such a key.
        where: Returns words that name the image with such a key.
        keys: One key per image.
        image_size: The side of the decoded images; 0 keeps the size of the first image.

    Raises:
        DataError: There is no image, or one of those that are looked at is bad.
    """
    if not keys:
        raise DataError("there is no image")
    looked_at = keys[:: max(1, len(keys) // _LOOKED_AT)]
    seen = [_opened(read(key), partial(where, key)) for key in looked_at]
    channels = 1 if all(image.mode in _GREY for image in seen) else 3
    width = height = image_size
    if not image_size:
        with _named(partial(where, keys[0])):
            _turn_upright(seen[0])
        width, height = seen[0].size
    return Encoded(read, where, keys, (channels, height, width), bool(image_size))


def _middle(width: int, height: int) -> tuple[float, float, float, float]:
    """Return the box of the largest square in the middle."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _turn_upright(image: Image.Image) -> None:
    """Decode the image and apply its EXIF orientation, as Hugging Face's reader does."""
    from PIL import ImageOps

    image.load()
    try:
        image.getexif()
    # An image with unreadable EXIF data may still be whole.
    except Exception:
        return
    ImageOps.exif_transpose(image, in_place=True)


def _opened(raw: bytes, where: Callable[[], str]) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    _silence_pillow()
    with _named(where):
        if not raw:
            raise ValueError("it is empty")
        try:
            image = Image.open(io.BytesIO(raw), formats=_FORMATS)
        except UnidentifiedImageError:
            raise ValueError(f"it is no {' or '.join(_FORMATS)}") from None
        if image.mode.startswith(("I", "F")):
            raise ValueError(
                f"its values have more than 8 bits ({image.mode}); scale them to 0 to 255"
            )
    return image


@contextmanager
def _named(where: Callable[[], str]) -> Iterator[None]:
    """Turn an error in the block into a DataError that names the image."""
    try:
        yield
    # Pillow's readers fail in many ways, SyntaxError among them.
    except Exception as error:
        raise DataError(f"{where()} does not decode: {error}") from error


def _silence_pillow() -> None:
    """Ignore Pillow's warnings, which do not name the file; bad images are errors that do.

    Not by `warnings.catch_warnings`, which is not safe in threads.
    """
    if ("ignore", None, Warning, re.compile(_PILLOW), 0) not in warnings.filters:
        warnings.filterwarnings("ignore", module=_PILLOW)
