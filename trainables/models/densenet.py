"""DenseNet-BC (Huang et al. 2017, arXiv 1608.06993), in its form for CIFAR."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.models.parts import convolution, initialise, stem


class Layer(nn.Module):
    """A layer that adds `growth` maps: BN-ReLU-1x1 to 4 growth, BN-ReLU-3x3 (section 3)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.new = nn.Sequential(
            *_activated(inputs),
            convolution(inputs, 4 * growth, 1),
            *_activated(4 * growth),
            convolution(4 * growth, growth, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for a batch."""
        return torch.cat([x, self.new(x)], 1)


def _activated(maps: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(maps), nn.ReLU(inplace=True)


def densenet(in_shape: tuple[int, int, int], classes: int, depth: int, growth: int) -> nn.Module:
    """Return a network from images (N, C, H, W) to logits (N, classes), without dropout.

    It has three dense blocks; a transition between two blocks halves the maps and the image.

    Args:
        in_shape: The shape of an image, (C, H, W).
        classes: The number of classes.
        depth: The number of layers, 6 n + 4.
        growth: The maps that a layer adds.

    Raises:
        ModelError: The images are under 8 x 8 pixels.
    """
    maps = 2 * growth
    layers: list[nn.Module] = [stem(in_shape, maps)]
    for block in range(3):
        if block:
            layers += [*_activated(maps), convolution(maps, maps // 2, 1), nn.AvgPool2d(2)]
            maps //= 2
        for _ in range((depth - 4) // 6):
            layers.append(Layer(maps, growth))
            maps += growth
    network = nn.Sequential(
        *layers,
        *_activated(maps),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(maps, classes),
    )
    initialise(network)
    return network
