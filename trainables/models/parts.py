"""What the convolutional families share: the stem, the initialisation and the least image."""

from __future__ import annotations

from torch import nn

from samtune.errors import SamtuneError

# Larger images go through the stem of the ImageNet networks.
SMALL = 64


class ModelError(SamtuneError):
    """No such model, or one that does not fit the images."""

    exit_code = 2


def stem(in_shape: tuple[int, int, int], width: int, *after: nn.Module) -> nn.Sequential:
    """What turns images of `in_shape` (C, H, W) into the first `width` feature maps.

    Up to 64 pixels a 3 x 3 convolution and then `after`, which keep the size; above, ImageNet's
    stem: a 7 x 7 convolution, BatchNorm, ReLU and max-pool, which make it a quarter. Raises
    ModelError for images that the network's later halvings leave nothing of.
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
    """Padded to keep the size; without a bias, which the BatchNorm after it would take away."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def initialise(network: nn.Module) -> None:
    """Weights as in the papers' own code, all of it descended from fb.resnet.torch.

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
