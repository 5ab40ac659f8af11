"""Loss, accuracy and calibration of a model on a split, in eval mode."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.data import Split


class Normaliser:
    """uint8 images (N, C, H, W) -> float32 of mean 0 and standard deviation 1 per channel."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean = mean.view(-1, 1, 1)
        self.std = std.view(-1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().sub_(self.mean).div_(self.std)


def evaluate(model: nn.Module, split: Split, normalise: Normaliser) -> dict[str, float]:
    """Mean cross-entropy `loss` (nats) and `acc` (share, 0 to 1) on `split`."""
    logits = _logits(model, split, normalise)
    loss = F.cross_entropy(logits, split.labels)
    accuracy = (logits.argmax(dim=1) == split.labels).double().mean()
    return {"loss": loss.item(), "acc": accuracy.item()}


def evaluate_samples(
    model: nn.Module,
    split: Split,
    normalise: Normaliser,
    sampled_weights: Callable[[int], AbstractContextManager[None]],
    samples: int = 32,
) -> dict[str, float]:
    """`loss` and `acc` of the mean of the class probabilities at `samples` draws of weights.

    32 is what the authors of bSAM average.
    """
    total: Tensor | float = 0.0
    for sample in range(samples):
        with sampled_weights(sample):
            total = total + _logits(model, split, normalise).softmax(dim=1)
    mean = torch.as_tensor(total) / samples
    loss = F.nll_loss(mean.clamp_min(torch.finfo(mean.dtype).tiny).log(), split.labels)
    accuracy = (mean.argmax(dim=1) == split.labels).double().mean()
    return {"loss": loss.item(), "acc": accuracy.item()}


def evaluate_test(model: nn.Module, split: Split, normalise: Normaliser) -> dict[str, float]:
    """The figures of a confirmed repeat on its test split.

    `test_loss` is the mean of the task's loss, `test_nll` the mean negative log-likelihood of the
    true class (equal while the loss is plain cross-entropy), `test_ece` see `calibration_error`,
    `test_correct` of `n_test` images are right.
    """
    logits = _logits(model, split, normalise)
    loss = F.cross_entropy(logits, split.labels).item()
    correct = int((logits.argmax(dim=1) == split.labels).sum())
    return {
        "test_acc": correct / len(split.labels),
        "test_loss": loss,
        "test_nll": loss,
        "test_ece": calibration_error(logits.softmax(dim=1), split.labels),
        "n_test": len(split.labels),
        "test_correct": correct,
    }


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3): 0 is calibrated, 1 the worst.

    The confidence of a prediction is its highest probability. Over `bins` equally wide bins
    (k/bins, (k+1)/bins] of confidence: the sum of |accuracy - mean confidence|, weighted by the
    share of the images in the bin. `probabilities` is (N, classes), `labels` (N,).
    """
    confidence, predicted = probabilities.double().max(dim=1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)
    index = torch.bucketize(confidence, edges[1:-1])
    surplus = (predicted == labels).double() - confidence
    gaps = torch.zeros_like(edges[1:]).index_add_(0, index, surplus)
    return float(gaps.abs().sum() / len(labels))


@torch.inference_mode()
def _logits(model: nn.Module, split: Split, normalise: Normaliser, chunk: int = 1024) -> Tensor:
    model.eval()
    batches = split.batches(torch.arange(len(split)), chunk, normalise.mean.device)
    return torch.cat([model(normalise(images)) for images, _ in batches])
