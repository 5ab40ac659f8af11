"""ResNet (He et al. 2016, arXiv 1512.03385).

Above 64 pixels it is torchvision's network, weight for weight. Up to 64 pixels it is the form that
the CIFAR literature calls ResNet-18, with a 3 x 3 stem and no max-pool. torchvision has no such
form; replacing parts of its network afterwards would draw weights that are thrown away, and would
need torchvision to work.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.parts import convolution, initialise, stem


class Basic(nn.Module):
    """Two 3 x 3 convolutions (figure 5, left)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 (figure 5, right); the 3 x 3 has the stride, as in fb.resnet.torch."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = convolution(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity where shapes agree, otherwise a projection (option B)."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


def resnet(
    in_shape: tuple[int, int, int],
    classes: int,
    block: type[Basic | Bottleneck],
    depths: tuple[int, ...],
) -> nn.Module:
    """Maps images (N, C, H, W) to logits (N, classes); stage i has `depths[i]` blocks (table 1).

    Raises ModelError for images under 8 x 8 pixels.
    """
    maps = 64
    layers: list[nn.Module] = [stem(in_shape, maps, nn.BatchNorm2d(maps), nn.ReLU(inplace=True))]
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for index in range(depth):
            layers.append(block(maps, width, 2 if stage and not index else 1))
            maps = width * block.expansion
    network = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(maps, classes)
    )
    initialise(network)
    return network
