"""Sums over the training steps of an epoch, kept on the device until its end."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from samtune.optimizers import StepResult
from trainables.parallel import Ranks
from trainables.targets import hits


class Sums:
    """Loss, hits, and the two figures of sharpness that a step yields at no further cost.

    Attributes:
        samples: images that the loss and hits are of.
    """

    def __init__(self, device: torch.device) -> None:
        # Loss, hits, loss gap and cosine, each times the images that it is of.
        self._sums = torch.zeros(4, dtype=torch.float64, device=device)
        self._loss, self._hits, self._gap, self._cosine = self._sums.unbind()
        self.samples = self._perturbed = self._compared = 0.0

    def add(self, result: StepResult, targets: Tensor, copies: int) -> None:
        """Add a step of this rank; with `copies` above 1, so many ranks add the same step."""
        # A skipped step has already waited for the device, and its loss may have overflowed.
        if result.skipped and not math.isfinite(result.loss.item()):
            return
        samples = len(targets) / copies
        self.samples += samples
        self._loss.add_(result.loss * samples)
        self._hits.add_(hits(result.outputs, targets), alpha=1 / copies)
        if result.skipped:
            return
        if result.sharp_loss is not None:
            self._perturbed += samples
            self._gap.add_((result.sharp_loss - result.loss) * samples)
        if result.cosine is not None:
            self._compared += samples
            self._cosine.add_(result.cosine * samples)

    def settle(self, ranks: Ranks) -> None:
        """Add up the sums of all ranks; the only wait for the device in an epoch. Collective."""
        counts = (self.samples, self._perturbed, self._compared)
        *sums, self.samples, self._perturbed, self._compared = ranks.total(
            *self._sums.tolist(), *counts
        )
        self._sums = torch.tensor(sums, dtype=torch.float64)

    def trained(self) -> dict[str, float]:
        """Return `train_loss` and `train_acc`, the means over the steps; NaN without a loss."""
        loss, correct = self._sums[:2].tolist()
        n = self.samples
        return {
            "train_loss": loss / n if n else math.nan,
            "train_acc": correct / n if n else math.nan,
        }

    def sharpness(self) -> dict[str, float]:
        """Return the means over the steps with a second pass; empty if no step had one.

        `sam_loss_gap` is the loss of the training batch at the perturbed weights minus that at the
        weights (nats), and `cos_grads` the cosine of the gradients there, in the steps that
        compared them.
        """
        gap, cosine = self._sums[2:].tolist()
        found = {}
        if self._perturbed:
            found["sam_loss_gap"] = gap / self._perturbed
        if self._compared:
            found["cos_grads"] = cosine / self._compared
        return found
