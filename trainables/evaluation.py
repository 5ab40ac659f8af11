"""Loss, accuracy and calibration of a model on a split, in evaluation mode."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.augment import Normaliser
from trainables.data import Split
from trainables.parallel import ALONE, Ranks, part_of
from trainables.precision import Precision

# The most images per pass.
_AT_A_TIME = 1024
# The most pixels per pass. A GPU has more units to fill: 334 images of 224 x 224, a CPU takes 20.
_PIXELS = {"cpu": 2**20, "cuda": 2**24}


class Predictor:
    """The model as a function of a split's images, at the precision of the trial."""

    def __init__(
        self, model: nn.Module, normalise: Normaliser, precision: Precision, ranks: Ranks = ALONE
    ) -> None:
        self.model = model
        self.ranks = ranks
        self.normalise = normalise
        self.precision = precision

    @torch.inference_mode()
    def __call__(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return logits (N, classes) in float32 and labels (N,), in the split's order.

        They are on the device. The model stays in evaluation mode. Several ranks share the work,
        and each gets the whole result.
        """
        self.model.eval()
        part = part_of(split, self.ranks)
        device, layout = self.precision.device, self.precision.memory_format
        size = _at_a_time(split.images.shape[2] * split.images.shape[3], device)
        order = torch.arange(len(part), device=part.rows.device)
        logits, labels = [], []
        for images, theirs in part.batches(order, size, device):
            inputs = self.normalise(images).contiguous(memory_format=layout)
            with self.precision.autocast():
                logits.append(self.model(inputs).float())
            labels.append(theirs)
        found, theirs = torch.cat(logits), torch.cat(labels)
        if part is split:
            return found, theirs
        return self.ranks.joint(found), self.ranks.joint(theirs)


def _at_a_time(pixels: int, device: torch.device) -> int:
    """Return how many images of so many pixels are evaluated at a time."""
    return max(1, min(_AT_A_TIME, _PIXELS.get(device.type, _PIXELS["cpu"]) // pixels))


def evaluate(predict: Predictor, split: Split) -> dict[str, float]:
    """Return the mean cross-entropy `loss` (nats) and the accuracy `acc` (0 to 1) on `split`."""
    logits, labels = predict(split)
    loss = F.cross_entropy(logits, labels)
    accuracy = (logits.argmax(dim=1) == labels).double().mean()
    return {"loss": loss.item(), "acc": accuracy.item()}


@runtime_checkable
class Posterior(Protocol):
    """A variant that fits a distribution of weights, such as bSAM."""

    def sampled_weights(self, sample: int) -> AbstractContextManager[None]:
        """Set the weights to draw number `sample` inside the block."""


def evaluate_posterior(
    predict: Predictor, split: Split, optimizer: object, draws: int
) -> dict[str, float]:
    """Return the figures of a posterior's mean prediction and their cost.

    Args:
        predict: the model.
        split: the images.
        optimizer: a variant, which may be a `Posterior`.
        draws: how many draws of the weights are averaged.

    Returns:
        An empty dict without draws, or for a variant that is no `Posterior`.
    """
    if not draws or not isinstance(optimizer, Posterior):
        return {}
    figures = evaluate_samples(predict, split, optimizer.sampled_weights, draws)
    cost = {"sampled_forward_samples": draws * len(split)}
    return {f"{name}_sampled": value for name, value in figures.items()} | cost


def evaluate_samples(
    predict: Predictor,
    split: Split,
    sampled_weights: Callable[[int], AbstractContextManager[None]],
    samples: int = 32,
) -> dict[str, float]:
    """Return figures of the mean class probabilities over draws of the weights.

    These are `loss`, `acc`, and for calibration `ece` and `brier`, as on test.

    Costs `samples` evaluations. The authors of bSAM average 32.
    """
    total: Tensor | float = 0.0
    for sample in range(samples):
        with sampled_weights(sample):
            logits, labels = predict(split)
        total = total + logits.softmax(dim=1)
    mean = torch.as_tensor(total) / samples
    loss = F.nll_loss(mean.clamp_min(torch.finfo(mean.dtype).tiny).log(), labels)
    accuracy = (mean.argmax(dim=1) == labels).double().mean()
    return {
        "loss": loss.item(),
        "acc": accuracy.item(),
        "ece": calibration_error(mean, labels),
        "brier": brier_score(mean, labels),
    }


def evaluate_test(predict: Predictor, split: Split) -> tuple[dict[str, float], str]:
    """Return the figures of a confirmed repeat on its test split, and the hits as `packed` text.

    `test_loss` is the mean of the task's loss and `test_nll` the mean negative log-likelihood of
    the true class; they are equal as long as the loss is plain cross-entropy. `test_ece` is
    the calibration error, `test_brier` the Brier score, and `test_correct` of `n_test` images are
    right. The text has one bit per image, in the order of the split.
    """
    logits, labels = predict(split)
    loss = F.cross_entropy(logits, labels).item()
    probabilities = logits.softmax(dim=1)
    hits = logits.argmax(dim=1) == labels
    correct = int(hits.sum())
    figures = {
        "test_acc": correct / len(labels),
        "test_loss": loss,
        "test_nll": loss,
        "test_ece": calibration_error(probabilities, labels),
        "test_brier": brier_score(probabilities, labels),
        "n_test": len(labels),
        "test_correct": correct,
    }
    return figures, packed(hits)


def brier_score(probabilities: Tensor, labels: Tensor) -> float:
    """Return the Brier score (Brier 1950): 0 is best, 2 is worst.

    This is the mean over images of the squared distance between the vector of probabilities and
    that of the label, which has a 1 at its class.

    Args:
        probabilities: shape (N, classes).
        labels: shape (N,).
    """
    p = probabilities.double()
    missing = 1 - 2 * p.gather(1, labels.unsqueeze(1)).squeeze(1)
    return float((p.square().sum(dim=1) + missing).mean())


def packed(hits: Tensor) -> str:
    """Return one bit per image as base64 of `np.packbits`, which `test_bits` of repeats holds.

    Args:
        hits: True for an image that is classified correctly, shape (N,).
    """
    return base64.b64encode(np.packbits(hits.cpu().numpy()).tobytes()).decode()


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al. 2017, eq. 3): 0 is best, 1 is worst.

    This is the mean of |accuracy - mean confidence| over equally wide bins of confidence
    (k/bins, (k+1)/bins], weighted by the share of the images in each bin. The confidence of a
    prediction is its highest probability.

    Args:
        probabilities: shape (N, classes).
        labels: shape (N,).
        bins: number of bins.
    """
    confidence, predicted = probabilities.double().max(dim=1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)
    index = torch.bucketize(confidence, edges[1:-1])
    surplus = (predicted == labels).double() - confidence
    gaps = torch.zeros_like(edges[1:]).index_add_(0, index, surplus)
    return float(gaps.abs().sum() / len(labels))
