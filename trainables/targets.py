"""Targets of the loss: labels, or mixtures of two labels with mixup and cutmix."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samtune.optimizers.passes import LossFunction
from trainables.split import sent


class Mixer:
    """Mixing of each image of a batch with another one (Zhang et al. 2018, Yun et al. 2019).

    The share of the other image is drawn once per batch from Beta(mixup, mixup) or
    Beta(cutmix, cutmix), as in the code of both papers. If both are above 0, each batch is mixed
    by one of them with probability one half. All draws depend on the seed and the epoch alone.
    """

    def __init__(self, mixup: float, cutmix: float, classes: int, seed: int) -> None:
        self.mixup = mixup
        self.cutmix = cutmix
        self.classes = classes
        self.seed = seed
        self._rng = np.random.default_rng(seed)

    @property
    def mixes(self) -> bool:
        """True if images are mixed."""
        return bool(self.mixup or self.cutmix)

    def start(self, epoch: int) -> None:
        """Begin an epoch: the draws for the next batches are those of this epoch."""
        self._rng = np.random.default_rng((self.seed, epoch, 2))

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the images in place, and return them with their targets.

        Args:
            images: The batch, of shape (B, C, H, W).
            labels: Their labels, of shape (B,).

        Returns:
            The images, and the labels if nothing is mixed, else shares of the classes
            (B, classes).
        """
        if not self.mixes:
            return images, labels
        # Drawn on the host, so that nothing waits for the device.
        rng = self._rng
        other = sent(torch.from_numpy(rng.permutation(len(images))), images.device)
        cuts = bool(self.cutmix) and (not self.mixup or rng.random() < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        share = float(rng.beta(alpha, alpha))
        if cuts:
            share = self._cut_(images, other, share)
        else:
            images.lerp_(images.index_select(0, other), share)
        mine = F.one_hot(labels, self.classes).to(images.dtype)
        return images, mine.lerp_(mine.index_select(0, other), share)

    def _cut_(self, images: Tensor, other: Tensor, share: float) -> float:
        """Paste a box of the other image, and return its share of the area."""
        height, width = images.shape[2:]
        side = math.sqrt(share)
        rows, columns = (
            slice(max(0, at - half), min(length, at + half))
            for length in (height, width)
            for at, half in [(int(self._rng.integers(length)), int(length * side) // 2)]
        )
        images[:, :, rows, columns] = images[:, :, rows, columns].index_select(0, other)
        return (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)


def cross_entropy(label_smoothing: float) -> LossFunction:
    """Return the per-sample cross-entropy (B,) of logits against labels or shares of classes.

    Args:
        label_smoothing: The share of each target that is spread evenly over all classes.
    """
    return partial(_cross_entropy, label_smoothing=label_smoothing)


def _cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    return F.cross_entropy(
        outputs.float(), targets, reduction="none", label_smoothing=label_smoothing
    )


def hits(outputs: Tensor, targets: Tensor) -> Tensor:
    """Count the correct predictions, 0-dim float64; a mixture counts by the class's share."""
    predicted = outputs.argmax(dim=1)
    if targets.dim() == 1:
        return (predicted == targets).sum(dtype=torch.float64)
    return targets.gather(1, predicted.unsqueeze(1)).sum(dtype=torch.float64)
