"""Parts that the models share: the stem, the initialisation, dropout, and their errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard

from torch import nn

from samtune.errors import SamtuneError

Builder = Callable[..., nn.Module]
"""Function of an image's shape (C, H, W) and the number of classes; some also take `drop`."""

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
"""The layers that normalise by the statistics of a batch."""


def is_batch_norm(module: nn.Module) -> TypeGuard[BatchNorm]:
    """Return whether a layer normalises by the statistics of a batch; its class may be an own one.

    torch's common class of these layers is private, so it is found by its name.
    """
    return any(kind.__name__ == "_BatchNorm" for kind in type(module).__mro__)


# Larger images go through the stem of the ImageNet networks.
SMALL = 64


class ModelError(SamtuneError):
    """A model that does not exist, or does not fit the images or the weights."""

    exit_code = 2


def stem(in_shape: tuple[int, int, int], width: int, *after: nn.Module) -> nn.Sequential:
    """Return the layers from images of `in_shape` (C, H, W) to the first `width` feature maps.

    Up to 64 pixels these are a 3 x 3 convolution and then `after`, which keep the size. Above,
    they are ImageNet's stem, which makes the size a quarter: a 7 x 7 convolution, BatchNorm, ReLU
    and max-pool.

    Raises:
        ModelError: The images are too small for the halvings later in the network.
    """
    channels, height, width_px = in_shape
    small = max(height, width_px) <= SMALL
    least = 8 if small else 32
    if min(height, width_px) < least:
        larger = "" if small else f" when a side is above {SMALL}"
        raise ModelError(
            f"images of {height} x {width_px} pixels are too small; this network needs at least "
            f"{least} x {least}{larger}. small_cnn takes any size"
        )
    if small:
        return nn.Sequential(convolution(channels, width, 3), *after)
    return nn.Sequential(
        convolution(channels, width, 7, stride=2),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the size, without a bias: BatchNorm would remove it."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def pooled_head(maps: int, classes: int) -> list[nn.Module]:
    """Return the layers from the last maps (N, maps, h, w) to logits (N, classes)."""
    return [
        nn.BatchNorm2d(maps),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(maps, classes),
    ]


def initialise(network: nn.Module) -> None:
    """Draw the weights as the papers' own code does, which is descended from fb.resnet.torch.

    Convolutions: normal with variance 2 / fan-out (He et al. 2015, arXiv 1502.01852, equation 14).
    BatchNorm: weight 1, bias 0. The classifier: torch's uniform weights, bias 0.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def dropout(rate: float) -> nn.Module:
    """Return dropout, or the identity if the rate is 0: it draws no random numbers."""
    return nn.Dropout(rate) if rate else nn.Identity()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().split("\n")[0]


def some(names: Sequence[str]) -> str:
    """Return the first names and how many more there are, as text."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown or "none"
