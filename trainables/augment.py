"""Augmentation of whole batches on their device: uint8 images in, normalised float32 images out.

Every image has draws of its own, and no operation loops over images. All draws come from a
generator that is a function of a seed and the epoch alone: equal seeds show every variant the same
images, and a resumed trial the images that it would have seen.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("none", "standard", "cutout", "randaugment", "imagenet")

OPERATIONS = (
    *("identity", "autocontrast", "brightness", "contrast", "color", "sharpness"),
    *("posterize", "solarize", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
)
_MAGNITUDE = 9 / 30
_LUMA = (0.299, 0.587, 0.114)


class Normaliser:
    """uint8 images (N, C, H, W) -> float32 of mean 0 and standard deviation 1 per channel."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean = mean.view(-1, 1, 1)
        self.std = std.view(-1, 1, 1)

    def __call__(self, images: Tensor, out: Tensor | None = None) -> Tensor:
        """With `out` (float32, same shape) in its memory and layout."""
        images = images.float() if out is None else out.copy_(images)
        return images.sub_(self.mean).div_(self.std)


class Augment:
    """Augments and normalises batches; what it returns is overwritten by the next call.

    Args:
        kind: none: only normalised. standard: a random crop of the image padded by an eighth of
            its side, and a horizontal flip of every other image. cutout: the same, and a square of
            half the side is blanked (DeVries and Taylor 2017). randaugment: standard, two random
            `OPERATIONS` at magnitude 9 of 30 (Cubuk et al. 2020), then cutout. imagenet: a random
            part of the image, 8 to 100 % of its area, resized to the whole (Szegedy et al. 2015),
            and the flip.
        normalise: its mean and std are on the device of the batches.
        seed: of all draws, together with the epoch.
        memory_format: of the returned batches.
    """

    def __init__(
        self,
        kind: str,
        normalise: Normaliser,
        seed: int,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.kind = kind
        self.normalise = normalise
        self.seed = seed
        self.memory_format = memory_format
        self._generator = torch.Generator(normalise.mean.device)
        self._staging = Staging()
        self._rows = slice(None)

    def start(self, epoch: int) -> None:
        """Of the batches that follow, this is the epoch."""
        # torch's CPU generator reads only 32 bits of a seed, so the words have to be mixed.
        words = np.random.SeedSequence((self.seed, epoch, 1))
        self._generator.manual_seed(int(words.generate_state(1)[0]))

    def __call__(
        self, images: Tensor, rows: slice = slice(None), count: int | None = None
    ) -> Tensor:
        """uint8 (B, C, H, W) -> float32 (B, C, H, W).

        Given `count`, the images are the `rows` of a batch of that many, and are augmented as
        they would be within it.
        """
        if self.kind == "none":
            return self._normalised(images)
        height, width = images.shape[2:]
        count = len(images) if count is None else count
        self._rows = rows
        flip = self._whole(2, count)
        if self.kind == "imagenet":
            boxes = draw_boxes(count, height, width, self._generator)
            top, left, tall, wide = (lines[rows] for lines in boxes)
            return self._normalised(resized_crop(images.float(), top, left, tall, wide, flip))
        dy, dx = (self._whole(2 * (side // 8) + 1, count) for side in (height, width))
        images = padded_crop(images, dy, dx, flip, self._staging)
        if self.kind == "randaugment":
            images = images.float()
            for _ in range(2):
                which, sign = self._whole(len(OPERATIONS), count), 2 * self._whole(2, count) - 1
                images = randaugment(images, which, sign)
        found = self._normalised(images)
        if self.kind in {"cutout", "randaugment"}:
            y, x = self._whole(height, count), self._whole(width, count)
            cutout_(found, y, x, self._staging)
        return found

    def _whole(self, below: int, count: int) -> Tensor:
        device = self._generator.device
        drawn = torch.randint(below, (count,), generator=self._generator, device=device)
        return drawn[self._rows]

    def _normalised(self, images: Tensor) -> Tensor:
        layout = self.memory_format
        out = self._staging("out", images.shape, torch.float32, images.device, layout)
        return self.normalise(images, out)


class Staging:
    """Memory that every batch uses again: page faults of new memory cost more than the work."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def __call__(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Tensor:
        """A tensor of that shape: zeros at first, later what its last user left."""
        held = self._held.get(name)
        if held is None or len(held) < shape[0]:
            held = torch.zeros(shape, dtype=dtype, device=device)
            held = self._held[name] = held.contiguous(memory_format=memory_format)
        return held[: shape[0]]


def padded_crop(images: Tensor, dy: Tensor, dx: Tensor, flip: Tensor, staging: Staging) -> Tensor:
    """Crops each image, padded by an eighth of its sides with 0, and mirrors some of them.

    images (B, C, H, W) -> the same shape, in the staging's memory. dy (B,) and dx (B,) are the
    crop's corner in the padded image, 0 to 2 (side // 8); flip (B,) is 1 for an image that is
    mirrored before it is padded.
    """
    count, channels, height, width = images.shape
    top, left = height // 8, width // 8
    tall, wide = height + 2 * top, width + 2 * left
    device = images.device
    padded = staging("padded", (count, 2, channels, tall, wide), images.dtype, device)
    inner = padded[..., top : top + height, left : left + width]
    inner[:, 0].copy_(images)
    inner[:, 1].copy_(images.flip(-1))
    # A row of the crop is `width` values in a row, from any place: as an overlapping view all
    # such rows are there already, and the crop is one gather of whole rows.
    rows = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
    image = torch.arange(0, 2 * count, 2, device=device) + flip
    corner = (image * channels * tall + dy) * wide + dx
    channel = torch.arange(channels, device=device) * (tall * wide)
    row = torch.arange(height, device=device) * wide
    starts = corner.view(-1, 1, 1) + channel.view(1, -1, 1) + row
    cropped = staging("cropped", images.shape, images.dtype, device)
    torch.index_select(rows, 0, starts.view(-1), out=cropped.view(-1, width))
    return cropped


def cutout_(images: Tensor, y: Tensor, x: Tensor, staging: Staging) -> Tensor:
    """Sets a square of half the image's height around (y, x) to 0, in place.

    images (B, C, H, W); y, x (B,) may lie anywhere in the image, so the square may reach over its
    border (DeVries and Taylor 2017, section 3.2).
    """
    height, width = images.shape[2:]
    size = height // 2
    inside = [
        ((line := torch.arange(side, device=images.device) - at.view(-1, 1)) >= -(size // 2))
        & (line < size - size // 2)
        for side, at in ((height, y), (width, x))
    ]
    rows, columns = (line.to(images.dtype) for line in inside)
    # A product takes a third of the time of masked_fill_, which is slow for a mask of another
    # shape: 1 - rows * columns.
    kept = staging("kept", (len(images), 1, height, width), images.dtype, images.device)
    rows, columns = rows.view(-1, 1, height, 1), columns.view(-1, 1, 1, width)
    torch.addcmul(images.new_ones(1), rows, columns, value=-1, out=kept)
    return images.mul_(kept)


def draw_boxes(
    count: int, height: int, width: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """top, left, height, width (count,) of random parts of an image, in whole pixels.

    Area 8 to 100 % of the image and width / height log-uniform in 3/4 to 4/3: the first of ten
    draws that fits, as in torchvision's RandomResizedCrop; where none does, the whole image.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    area = height * width * (0.08 + 0.92 * uniform(count, 10))
    ratio = torch.exp(math.log(4 / 3) * (2 * uniform(count, 10) - 1))
    wide, tall = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (wide >= 1) & (wide <= width) & (tall >= 1) & (tall <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    fits = fits.gather(1, first)
    tall = tall.gather(1, first).where(fits, height).squeeze(1)
    wide = wide.gather(1, first).where(fits, width).squeeze(1)
    top = (uniform(count) * (height - tall + 1)).floor()
    left = (uniform(count) * (width - wide + 1)).floor()
    return top, left, tall, wide


def resized_crop(
    images: Tensor, top: Tensor, left: Tensor, tall: Tensor, wide: Tensor, flip: Tensor
) -> Tensor:
    """The box of each image, bilinearly resized to the whole image, then mirrored where flip is 1.

    images float (B, C, H, W), the rest (B,) in pixels. A part is never shrunk: no antialiasing.
    """
    height, width = images.shape[2:]

    def places(side: int, start: Tensor, length: Tensor) -> Tensor:
        """Where in the image, in pixels, each line of the result comes from: (B, side)."""
        start, length = start.view(-1, 1), length.view(-1, 1)
        line = torch.arange(side, device=images.device) + 0.5
        return (start + line * (length / side) - 0.5).clamp(start, start + length - 1)

    y, x = places(height, top, tall), places(width, left, wide)
    x = torch.where(flip.view(-1, 1) == 1, x.flip(1), x)
    x = ((2 * x + 1) / width - 1).view(-1, 1, width).expand(-1, height, width)
    y = ((2 * y + 1) / height - 1).view(-1, height, 1).expand(-1, height, width)
    grid = torch.stack([x, y], dim=3)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def randaugment(images: Tensor, which: Tensor, sign: Tensor) -> Tensor:
    """One of `OPERATIONS` on each image, at magnitude 9 of 30.

    images float (B, C, H, W) of whole numbers 0 to 255, and so the result; which (B,) indexes
    `OPERATIONS`, sign (B,) is 1 or -1 for the direction of those that have two. RandAugment's
    list without equalize, whose histograms have no fast batched form.
    """

    def on(name: str) -> Tensor:
        return (which == OPERATIONS.index(name)).view(-1, 1, 1, 1)

    sign = sign.view(-1, 1, 1, 1)
    grey = _grey(images)
    # Four operations go towards or away from a poorer image.
    poorer = torch.where(on("contrast"), grey.mean(dim=(2, 3), keepdim=True), grey)
    poorer = torch.where(on("sharpness"), _smooth(images), poorer)
    poorer = torch.where(on("brightness"), 0.0, poorer)
    blends = on("brightness") | on("contrast") | on("color") | on("sharpness")
    found = images + torch.where(blends, 0.9 * _MAGNITUDE * sign, 0.0) * (images - poorer)

    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    stretches = on("autocontrast") & (high > low)
    stretched = (images - low) * (255 / (high - low).clamp(min=1))
    found = torch.where(stretches, stretched, found)
    found = torch.where(on("posterize"), images - images % 2 ** round(4 * _MAGNITUDE), found)
    bright = on("solarize") & (images >= 255 * (1 - _MAGNITUDE))
    found = torch.where(bright, 255 - images, found)
    return _moved(found.floor_().clamp_(0, 255), which, sign.flatten())


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    weights = images.new_tensor(_LUMA).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True).floor_()


def _smooth(images: Tensor) -> Tensor:
    """PIL's SMOOTH, which leaves the border as it is."""
    channels = images.shape[1]
    kernel = images.new_tensor([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = F.conv2d(
        images, kernel.expand(channels, 1, 3, 3), groups=channels
    ).round_()
    return smooth


def _moved(images: Tensor, which: Tensor, sign: Tensor) -> Tensor:
    """Rotated, sheared or shifted, nearest pixel, 0 from outside; others stay as they are."""
    height, width = images.shape[2:]

    def amount(name: str, most: float) -> Tensor:
        return torch.where(which == OPERATIONS.index(name), most * _MAGNITUDE * sign, 0.0)

    angle = amount("rotate", math.radians(30))
    # In pixels from the centre, where the result's (x, y) comes from.
    xx, yy, sine = angle.cos(), angle.cos(), angle.sin()
    xy, yx = sine + amount("shear_x", 0.3), -sine + amount("shear_y", 0.3)
    dx = -amount("translate_x", 150 / 331 * width).trunc()
    dy = -amount("translate_y", 150 / 331 * height).trunc()
    ratio = height / width
    theta = torch.stack(
        [
            torch.stack([xx, xy * ratio, 2 * dx / width], dim=1),
            torch.stack([yx / ratio, yy, 2 * dy / height], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="nearest", align_corners=False)
