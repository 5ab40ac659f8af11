"""WideResNet (Zagoruyko and Komodakis 2016, arXiv 1605.07146)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.parts import convolution, dropout, initialise, pooled_head, stem


class Block(nn.Module):
    """B(3, 3): BatchNorm and ReLU before each of two convolutions (figure 1, c).

    Dropout stands between the convolutions (section 2.4; figure 1, d).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, drop: float = 0.0) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = convolution(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = dropout(drop)
        self.conv2 = convolution(outputs, outputs, 3)
        self.projection = None if inputs == outputs else convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for a batch."""
        active = F.relu(self.bn1(x), inplace=True)
        # A projection sees the activated maps, as in the authors' code; the identity does not.
        shortcut = x if self.projection is None else self.projection(active)
        active = F.relu(self.bn2(self.conv1(active)), inplace=True)
        out: Tensor = self.conv2(self.dropout(active))
        out += shortcut
        return out


def wide_resnet(
    in_shape: tuple[int, int, int], classes: int, depth: int, width: int, drop: float = 0.0
) -> nn.Module:
    """Return WRN-depth-width: a network from images (N, C, H, W) to logits (N, classes).

    Args:
        in_shape: The shape of an image, (C, H, W).
        classes: The number of classes.
        depth: The number of layers, 6 n + 4.
        width: The widening factor.
        drop: The rate of dropout in each block.

    Raises:
        ModelError: The images are under 8 x 8 pixels.
    """
    maps = 16
    layers: list[nn.Module] = [stem(in_shape, maps)]
    for group in range(3):
        outputs = 16 * width * 2**group
        for index in range((depth - 4) // 6):
            stride = 2 if group and not index else 1
            layers.append(Block(maps, outputs, stride, drop))
            maps = outputs
    network = nn.Sequential(*layers, *pooled_head(maps, classes))
    initialise(network)
    return network
