"""Augmentation of whole batches on their device: uint8 images in, normalised float32 images out.

Every image has draws of its own, and no operation loops over images. All draws come from a
generator that is a function of a seed and the epoch alone: equal seeds show every variant the same
images, and a resumed trial the images that it would have seen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.split import Batch, stored

KINDS = ("none", "standard", "cutout", "randaugment", "imagenet")
_CROPPED = ("standard", "cutout", "randaugment")

OPERATIONS = (
    *("identity", "autocontrast", "brightness", "contrast", "color", "sharpness"),
    *("posterize", "solarize", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
)
_MAGNITUDE = 9 / 30
_LUMA = (0.299, 0.587, 0.114)
_ALL = slice(None)
# On a CPU, of the values of a batch: what stands between two of its passes is then still cached.
_VALUES_AT_A_TIME = 3 * 2**19


class Normaliser:
    """uint8 images (N, C, H, W) -> float32 of mean 0 and standard deviation 1 per channel."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean = mean.view(-1, 1, 1)
        # A product takes half the time of a quotient, and is a rounding away from it.
        self.scale = 1 / std.view(-1, 1, 1)

    def __call__(self, images: Tensor, out: Tensor | None = None) -> Tensor:
        """With `out` (float32, same shape) in its memory and layout."""
        images = images.float() if out is None else out.copy_(images)
        return images.sub_(self.mean).mul_(self.scale)


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
        self._out: Tensor | None = None
        self._staging: Staging
        self._rows = _ALL

    def start(self, epoch: int) -> None:
        """Of the batches that follow, this is the epoch."""
        # torch's CPU generator reads only 32 bits of a seed, so the words have to be mixed.
        words = np.random.SeedSequence((self.seed, epoch, 1))
        self._generator.manual_seed(int(words.generate_state(1)[0]))

    def __call__(self, images: Batch, rows: slice = _ALL, count: int | None = None) -> Tensor:
        """uint8 (B, C, H, W) -> float32 (B, C, H, W).

        Given `count`, the images are the `rows` of a batch of that many, and are augmented as
        they would be within it.
        """
        self._rows = rows
        shape, device = images.shape, images.device
        if self._out is None or self._out.shape[0] < shape[0]:
            out = torch.empty(shape, dtype=torch.float32, device=device)
            self._out = out.contiguous(memory_format=self.memory_format)
            if self.kind in _CROPPED:
                self._staging = Staging(shape, device)
        drawn = self._draw(shape, shape[0] if count is None else count)
        size = _at_a_time(shape, device)
        if self.kind == "imagenet":
            # It works on floats alone, which are four times as long.
            size = -(-size // 4)
        taken: Iterable[Tensor] = images.split(size)
        if self.kind in _CROPPED:
            dy, dx, flip, *drawn = drawn
            taken = padded_crops(images, dy, dx, flip, self._staging)
        out = self._out[: shape[0]]
        for part, (into, *its) in zip(taken, _in_parts(size, out, *drawn), strict=True):
            self._augment(part, into, its)
        return out

    def _draw(self, shape: torch.Size, count: int) -> list[Tensor]:
        """The arguments of this kind's operations, image by image, in their order."""
        height, width = shape[2:]
        if self.kind == "none":
            return []
        flip = self._whole(2, count)
        if self.kind == "imagenet":
            boxes = draw_boxes(count, height, width, self._generator)
            return [*(edges[self._rows] for edges in boxes), flip]
        dy, dx = (self._whole(2 * (side // 8) + 1, count) for side in (height, width))
        if self.kind == "standard":
            return [dy, dx, flip]
        operations = [
            (self._whole(len(OPERATIONS), count), 2 * self._whole(2, count) - 1)
            for _ in range(2 if self.kind == "randaugment" else 0)
        ]
        y, x = self._whole(height, count), self._whole(width, count)
        return [dy, dx, flip, *cut_lines(y, x, self._staging), *itertools.chain(*operations)]

    def _augment(self, images: Tensor, out: Tensor, drawn: list[Tensor]) -> None:
        if self.kind == "imagenet":
            images = resized_crop(images.float(), *drawn)
        if self.kind == "randaugment":
            for which, sign in zip(drawn[2::2], drawn[3::2], strict=True):
                images = randaugment(images.float(), which, sign)
        self.normalise(images, out)
        if self.kind in ("cutout", "randaugment"):
            rows, columns = drawn[:2]
            cutout_(out, rows, columns, self._staging)

    def _whole(self, below: int, count: int) -> Tensor:
        device = self._generator.device
        drawn = torch.randint(below, (count,), generator=self._generator, device=device)
        return drawn if self._rows == _ALL else drawn[self._rows]


class Staging:
    """Memory that every part of a batch uses again: page faults of new memory cost more.

    And tables: a mask is made of one of its rows and one of its columns, which are looked up, and
    a crop's move along the rows is too. What a batch costs besides its values is calls of torch.

    Args:
        shape: (B, C, H, W) of the largest batch; what is staged are its parts.
    """

    def __init__(self, shape: torch.Size, device: torch.device) -> None:
        count = min(shape[0], _at_a_time(shape, device))
        sides = height, width = shape[2:]
        self.crops = torch.empty((count, *shape[1:]), dtype=torch.uint8, device=device)
        self.inside = self.crops.new_empty((count, 1, height, width))
        self.kept = torch.empty((count, 1, height, width), device=device)

        top, left = height // 8, width // 8
        across = torch.arange(-left, left + 1)
        self.moves = torch.cat([across, -across]).sub_(top * width).to(device)
        # All bits of a byte, or none.
        self.mirror = torch.tensor([0, 255], dtype=torch.uint8, device=device).view(2, 1, 1, 1)
        inside_y, inside_x = (
            _spans(torch.arange(pad, -pad - 1, -1), side, side).to(torch.uint8).mul_(255)
            for pad, side in ((top, height), (left, width))
        )
        size = height // 2
        kept_y, kept_x = (
            _spans(torch.arange(side) - size // 2, size, side).logical_not().float()
            for side in sides
        )
        self.inside_y, self.kept_y = (t[:, None, :, None].to(device) for t in (inside_y, kept_y))
        self.inside_x, self.kept_x = (t[:, None, None, :].to(device) for t in (inside_x, kept_x))


def _spans(begins: Tensor, length: int, side: int) -> Tensor:
    """For each span of that length, which of the places 0 to side - 1 are in it: bool."""
    place = torch.arange(side) - begins.view(-1, 1)
    return (place >= 0) & (place < length)


def padded_crops(
    images: Batch, dy: Tensor, dx: Tensor, flip: Tensor, staging: Staging
) -> Iterator[Tensor]:
    """Crops images (B, C, H, W) padded by an eighth of their sides with 0; mirrors some of them.

    Yields all, uint8, in their order: as many at a time as the staging has memory for, in which
    the next overwrite the last.

    Args:
        dy, dx: (B,) the crop's corner in the padded image, 0 to 2 (side // 8).
        flip: (B,) is 1 for an image that is mirrored before it is padded.
    """
    channels, height, width = images.shape[1:]
    top, left = height // 8, width // 8
    store, rows = stored(images)
    size = channels * height * width
    # Rows stand one behind the other, so a crop is the run of its image moved by so many values,
    # if only what came into it from the row, or the image, before or behind is blanked.
    moved = staging.moves.index_select(0, torch.add(dx, flip, alpha=2 * left + 1))
    moved = moved.add_(dy, alpha=width)
    start = torch.add(moved, rows, alpha=size)
    last = store.numel() - size
    moves: list[tuple[int, int]] = []
    if store.device.type == "cpu" and store.is_contiguous():
        # Nothing is before a store's first image or behind its last: theirs are moved within it.
        within = start.clamp(0, last)
        if not torch.equal(within, start):
            beyond = (within - start).tolist()
            moves = [(i, by) for i, by in enumerate(beyond) if by]
            start = within
    else:
        # A GPU would have to be waited for to know of them.
        margin = top * width + left
        store = F.pad(store.index_select(0, rows).flatten(1), (margin, margin))
        start = moved + torch.arange(margin, store.numel(), size + 2 * margin, device=store.device)
        last = store.numel() - size
    runs = store.as_strided((last + 1, size), (1, 1))
    mirrors = staging.mirror.index_select(0, flip)
    inside_y = staging.inside_y.index_select(0, dy)
    inside_x = staging.inside_x.index_select(0, dx)
    at_a_time = staging.crops.shape[0]
    done = 0
    for starts, mirror, rows, columns in _in_parts(at_a_time, start, mirrors, inside_y, inside_x):
        crops = staging.crops[: starts.shape[0]]
        flat = torch.index_select(runs, 0, starts, out=crops.view(-1, size))
        for i, by in moves:
            if done <= i < done + at_a_time:
                flat[i - done] = flat[i - done].roll(by)
        done += at_a_time
        # torch.where takes ten times as long.
        crops ^= crops.flip(-1).bitwise_xor_(crops).bitwise_and_(mirror)
        crops &= torch.bitwise_and(rows, columns, out=staging.inside[: starts.shape[0]])
        yield crops


def _in_parts(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors together, at most `size` of their entries at a time."""
    if tensors[0].shape[0] <= size:
        yield tensors
    else:
        yield from zip(*(torch.split(each, size) for each in tensors), strict=True)


def cut_lines(y: Tensor, x: Tensor, staging: Staging) -> tuple[Tensor, Tensor]:
    """The rows (B, 1, H, 1) and the columns (B, 1, 1, W) that `cutout_` keeps: 1, the others 0.

    y, x (B,) are the centre of the square and may lie anywhere in the image.
    """
    return staging.kept_y.index_select(0, y), staging.kept_x.index_select(0, x)


def cutout_(images: Tensor, rows: Tensor, columns: Tensor, staging: Staging) -> Tensor:
    """Sets a square of half the image's height to 0, in place; it may reach over the border.

    images float32 (B, C, H, W); rows and columns are `cut_lines` (DeVries and Taylor 2017,
    section 3.2).
    """
    return images.mul_(torch.maximum(rows, columns, out=staging.kept[: images.shape[0]]))


def _at_a_time(shape: torch.Size, device: torch.device) -> int:
    """How many of a batch's images an operation takes: all where there are no such caches."""
    if device.type != "cpu":
        return shape[0]
    return max(1, _VALUES_AT_A_TIME // shape[1:].numel())


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
