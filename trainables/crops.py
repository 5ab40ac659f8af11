"""Crops, flips and cut-out squares of whole batches, without a loop over images."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.split import Batch, stored

# Values of a batch per operation on a CPU: between two operations they stay in its caches.
_VALUES_AT_A_TIME = 3 * 2**19


class Staging:
    """Memory that every part of a batch uses again, and tables that save calls of torch.

    Page faults of new memory would cost more than the operations. A mask is made of a row and a
    column, which are looked up in a table each, and so is the offset of a crop.
    """

    def __init__(self, shape: torch.Size, device: torch.device) -> None:
        """Allocate memory for the parts of batches of at most `shape` (B, C, H, W)."""
        count = min(shape[0], at_a_time(shape, device))
        sides = height, width = shape[2:]
        self.crops = torch.empty((count, *shape[1:]), dtype=torch.uint8, device=device)
        self.inside = self.crops.new_empty((count, 1, height, width))
        self.kept = torch.empty((count, 1, height, width), device=device)

        top, left = height // 8, width // 8
        across = torch.arange(-left, left + 1)
        self.moves = torch.cat([across, -across]).sub_(top * width).to(device)
        # A mask for bitwise operations: no bits of a byte, or all of them.
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
    """Return the mask of the places 0 to side - 1 in each span: bool of shape (spans, side)."""
    place = torch.arange(side) - begins.view(-1, 1)
    return (place >= 0) & (place < length)


def padded_crops(
    images: Batch, dy: Tensor, dx: Tensor, flip: Tensor, staging: Staging
) -> Iterator[Tensor]:
    """Crop images that are padded by an eighth of their sides with 0, and mirror some of them.

    Args:
        images: The batch, uint8 of shape (B, C, H, W).
        dy: The top of each crop in the padded image, 0 to 2 (height // 8), of shape (B,).
        dx: The left of each crop, 0 to 2 (width // 8), of shape (B,).
        flip: 1 for an image that is mirrored before it is padded, else 0, of shape (B,).
        staging: Memory for the crops.

    Yields:
        The crops in order, uint8, as many at a time as the staging has memory for; each yield
        overwrites the last.
    """
    channels, height, width = images.shape[1:]
    top, left = height // 8, width // 8
    store, rows = stored(images)
    size = channels * height * width
    # Rows lie one after another in memory, so a crop is its image's run of values at an offset.
    # What comes into it from the neighbouring row or image is blanked afterwards.
    moved = staging.moves.index_select(0, torch.add(dx, flip, alpha=2 * left + 1))
    moved = moved.add_(dy, alpha=width)
    start = torch.add(moved, rows, alpha=size)
    last = store.numel() - size
    moves: list[tuple[int, int]] = []
    if store.device.type == "cpu" and store.is_contiguous():
        # No memory lies before a store's first image or after its last: these are rolled instead.
        within = start.clamp(0, last)
        if not torch.equal(within, start):
            beyond = (within - start).tolist()
            moves = [(i, by) for i, by in enumerate(beyond) if by]
            start = within
    else:
        # On a GPU, looking for these images would wait for the device.
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
    for starts, mirror, rows, columns in in_parts(at_a_time, start, mirrors, inside_y, inside_x):
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


def in_parts(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the tensors together, at most `size` of their entries at a time."""
    if tensors[0].shape[0] <= size:
        yield tensors
    else:
        yield from zip(*(torch.split(each, size) for each in tensors), strict=True)


def cut_lines(y: Tensor, x: Tensor, staging: Staging) -> tuple[Tensor, Tensor]:
    """Return masks of the rows (B, 1, H, 1) and columns (B, 1, 1, W) that `cutout_` keeps as 1.

    The centres of the squares, y and x of shape (B,), may lie anywhere in the image.
    """
    return staging.kept_y.index_select(0, y), staging.kept_x.index_select(0, x)


def cutout_(images: Tensor, rows: Tensor, columns: Tensor, staging: Staging) -> Tensor:
    """Set a square of half the image's height to 0, in place; it may reach over the border.

    DeVries and Taylor 2017, section 3.2. Images are float32 (B, C, H, W); rows and columns come
    from `cut_lines`.
    """
    return images.mul_(torch.maximum(rows, columns, out=staging.kept[: images.shape[0]]))


def at_a_time(shape: torch.Size, device: torch.device) -> int:
    """Return how many images of a batch an operation takes at a time: all, except on a CPU."""
    if device.type != "cpu":
        return shape[0]
    return max(1, _VALUES_AT_A_TIME // shape[1:].numel())


def draw_boxes(
    count: int, height: int, width: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw random parts of an image; return top, left, height and width in pixels, each (count,).

    The area is 8 to 100 % of the image's, and width / height is log-uniform in 3/4 to 4/3. The
    first of ten draws that fits is taken, as in torchvision's RandomResizedCrop; if none fits, the
    whole image.
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
    """Resize the box of each image bilinearly to the whole image, then mirror it if flip is 1.

    Images are float (B, C, H, W); the others are in pixels and of shape (B,). A box is never
    larger than the image, so no antialiasing is needed.
    """
    height, width = images.shape[2:]

    def places(side: int, start: Tensor, length: Tensor) -> Tensor:
        """Return the line of the image that each line of the result comes from: (B, side)."""
        start, length = start.view(-1, 1), length.view(-1, 1)
        line = torch.arange(side, device=images.device) + 0.5
        return (start + line * (length / side) - 0.5).clamp(start, start + length - 1)

    y, x = places(height, top, tall), places(width, left, wide)
    x = torch.where(flip.view(-1, 1) == 1, x.flip(1), x)
    x = ((2 * x + 1) / width - 1).view(-1, 1, width).expand(-1, height, width)
    y = ((2 * y + 1) / height - 1).view(-1, height, 1).expand(-1, height, width)
    grid = torch.stack([x, y], dim=3)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
