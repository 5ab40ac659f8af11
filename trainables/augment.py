"""Augmentation of whole batches on their device: from uint8 images to normalised float32 images.

Every image has its own draws, and no operation loops over images. All draws come from a generator
that depends on a seed and the epoch alone: with equal seeds every variant sees the same images,
and a resumed trial sees the images that it would have seen.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from samtune.trial import Value, warn
from trainables.crops import (
    Staging,
    at_a_time,
    cut_lines,
    cutout_,
    draw_boxes,
    in_parts,
    padded_crops,
    resized_crop,
)
from trainables.datasets.decode import Crops
from trainables.randaugment import OPERATIONS, randaugment
from trainables.split import Batch, Split, Streamed, sent

KINDS = ("none", "standard", "cutout", "randaugment", "imagenet")
_CROPPED = ("standard", "cutout", "randaugment")
ALL = slice(None)
"""The rows of a whole batch."""


def warn_of_squares(task: Mapping[str, Value], split: Split) -> None:
    """Warn where `imagenet` finds only the middle squares of images, because these are mapped."""
    resized = task["image_size"] or task["dataset"] == "imagenet"
    if task["augment"] == "imagenet" and resized and not isinstance(split, Streamed):
        warn(
            "augment: imagenet takes random parts of the middle squares that the memory map has, "
            "and not of whole images, as the papers do; a set above 2 GB that was never fetched "
            "by `samtune data fetch` is decoded for each batch, with parts of whole images"
        )


class Normaliser:
    """A map from uint8 images to float32 of mean 0 and standard deviation 1 per channel."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        """Take the mean and the standard deviation of the pixels per channel, of shape (C,)."""
        self.mean = mean.view(-1, 1, 1)
        # A product takes half the time of a quotient, and differs from it only by rounding.
        self.scale = 1 / std.view(-1, 1, 1)

    def __call__(self, images: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the normalised images; in the memory and layout of `out` if it is given."""
        images = images.float() if out is None else out.copy_(images)
        return images.sub_(self.mean).mul_(self.scale)


class Augment:
    """Augmentation and normalisation of batches. Each call overwrites the last one's result.

    The kinds are:

        none         no augmentation
        standard     a random crop of the image padded by an eighth of its side, and a horizontal
                     flip with probability one half
        cutout       standard, and a blank square of half the side (DeVries and Taylor 2017)
        randaugment  standard, two random `OPERATIONS` at magnitude 9 of 30 (Cubuk et al. 2020),
                     then cutout
        imagenet     a random part of the image, 8 to 100 % of its area, resized to the whole
                     (Szegedy et al. 2015), and the flip. Images that are decoded for each batch
                     give a part of all that their file has, others of the stored square
    """

    def __init__(
        self,
        kind: str,
        normalise: Normaliser,
        seed: int,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        """Set up the augmentation.

        Args:
            kind: One of KINDS.
            normalise: Normalises on the device of the batches.
            seed: Determines all draws, together with the epoch.
            memory_format: The layout of the returned batches.
        """
        self.kind = kind
        self.normalise = normalise
        self.seed = seed
        self.memory_format = memory_format
        self._generator = torch.Generator(normalise.mean.device)
        self._out: Tensor | None = None
        self._staging: Staging
        self._rows: slice | Tensor = ALL
        self._epoch = 0
        self._cut_when_decoded = False

    def source(self, split: Split) -> Split:
        """Return the split of this epoch's images, whose batches are to be augmented."""
        self._cut_when_decoded = False
        if self.kind == "imagenet" and isinstance(split, Streamed) and split.encoded.resize:
            self._cut_when_decoded = True
            return dataclasses.replace(split, crops=Crops(self.seed, self._epoch))
        return split

    def start(self, epoch: int) -> None:
        """Begin an epoch: the draws for the next batches are those of this epoch."""
        self._epoch = epoch
        # torch's CPU generator reads 32 bits of a seed only, so the words have to be mixed.
        words = np.random.SeedSequence((self.seed, epoch, 1))
        self._generator.manual_seed(int(words.generate_state(1)[0]))

    def __call__(
        self, images: Batch, rows: slice | Tensor = ALL, count: int | None = None
    ) -> Tensor:
        """Return the augmented images as float32 (B, C, H, W).

        Args:
            images: The batch, uint8 of shape (B, C, H, W).
            rows: The places of these images in a larger batch of `count`; they are augmented as
                they would be in it.
            count: The size of the larger batch; None if the images are the whole batch.
        """
        self._rows = rows if isinstance(rows, slice) else sent(rows, images.device)
        shape, device = images.shape, images.device
        if self._out is None or self._out.shape[0] < shape[0]:
            out = torch.empty(shape, dtype=torch.float32, device=device)
            self._out = out.contiguous(memory_format=self.memory_format)
            if self.kind in _CROPPED:
                self._staging = Staging(shape, device)
        drawn = self._draw(shape, shape[0] if count is None else count)
        size = at_a_time(shape, device)
        if self.kind == "imagenet":
            # This kind works on floats only, which are four times as long.
            size = -(-size // 4)
        taken: Iterable[Tensor] = images.split(size)
        if self.kind in _CROPPED:
            dy, dx, flip, *drawn = drawn
            taken = padded_crops(images, dy, dx, flip, self._staging)
        out = self._out[: shape[0]]
        for part, (into, *its) in zip(taken, in_parts(size, out, *drawn), strict=True):
            self._augment(part, into, its)
        return out

    def _draw(self, shape: torch.Size, count: int) -> list[Tensor]:
        """Draw the arguments of this kind's operations, one entry per image, in their order."""
        height, width = shape[2:]
        if self.kind == "none":
            return []
        flip = self._whole(2, count)
        if self._cut_when_decoded:
            return [flip]
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
        if self._cut_when_decoded:
            (flip,) = drawn
            images = torch.where(flip.view(-1, 1, 1, 1) == 1, images.flip(-1), images)
        elif self.kind == "imagenet":
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
        return drawn[self._rows]
