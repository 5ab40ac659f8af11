"""ResNet (He et al. 2016, arXiv 1512.03385).

Above 64 pixels it is torchvision's network, weight for weight. Up to 64 pixels it has a 3 x 3 stem
and no max-pool, as in the CIFAR literature. torchvision has no such form; replacing parts of its
network afterwards would draw weights in vain, and would need torchvision to work.

With dropout, each block drops activations before its last convolution, as WideResNet does.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.parts import convolution, dropout, initialise, stem


class Basic(nn.Module):
    """A block of two 3 x 3 convolutions (figure 5, left)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, drop: float = 0.0) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.dropout = dropout(drop)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for a batch."""
        out = self.dropout(F.relu(self.bn1(self.conv1(x)), inplace=True))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


class Bottleneck(nn.Module):
    """A block of 1 x 1, 3 x 3 and 1 x 1 convolutions (figure 5, right).

    The 3 x 3 has the stride, as in fb.resnet.torch.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, drop: float = 0.0) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = convolution(inputs, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.dropout = dropout(drop)
        self.conv3 = convolution(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for a batch."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.dropout(F.relu(self.bn2(self.conv2(out)), inplace=True))
        out = self.bn3(self.conv3(out))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return the identity if the shapes agree, otherwise a projection (option B)."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


def resnet(
    in_shape: tuple[int, int, int],
    classes: int,
    block: type[Basic | Bottleneck],
    depths: tuple[int, ...],
    drop: float = 0.0,
) -> nn.Module:
    """Return a network from images (N, C, H, W) to logits (N, classes).

    Args:
        in_shape: The shape of an image, (C, H, W).
        classes: The number of classes.
        block: The kind of block.
        depths: The number of blocks per stage (table 1).
        drop: The rate of dropout in each block.

    Raises:
        ModelError: The images are under 8 x 8 pixels.
    """
    maps = 64
    layers: list[nn.Module] = [stem(in_shape, maps, nn.BatchNorm2d(maps), nn.ReLU(inplace=True))]
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for index in range(depth):
            layers.append(block(maps, width, 2 if stage and not index else 1, drop))
            maps = width * block.expansion
    network = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(maps, classes)
    )
    initialise(network)
    return network
