"""PyramidNet (Han et al. 2017, arXiv 1610.02915), additive, and with ShakeDrop.

Widths are rounded, not truncated, as in the authors' PyTorch code and in SAM's.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.parts import convolution, initialise, pooled_head, stem
from trainables.models.shakedrop import ShakeDrop


class Block(nn.Module):
    """A residual branch beside a shortcut without weights (figure 6, d)."""

    def __init__(
        self, inputs: int, width: int, stride: int, bottleneck: bool, keep: float | None
    ) -> None:
        """Build the block; `keep` is as in ShakeDrop, and None for no ShakeDrop."""
        super().__init__()
        outputs = width * 4 if bottleneck else width
        if bottleneck:
            convolutions = [
                convolution(inputs, width, 1),
                convolution(width, width, 3, stride),
                convolution(width, outputs, 1),
            ]
        else:
            convolutions = [convolution(inputs, width, 3, stride), convolution(width, width, 3)]
        # No ReLU before the first convolution, and a BatchNorm after the last.
        layers: list[nn.Module] = [nn.BatchNorm2d(inputs)]
        for index, conv in enumerate(convolutions):
            if index:
                layers.append(nn.ReLU(inplace=True))
            layers += [conv, nn.BatchNorm2d(conv.out_channels)]
        if keep is not None:
            layers.append(ShakeDrop(keep))
        self.branch = nn.Sequential(*layers)
        self.pool = nn.Identity() if stride == 1 else nn.AvgPool2d(2, ceil_mode=True)
        self.grows = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for a batch."""
        out = F.pad(self.pool(x), (0, 0, 0, 0, 0, self.grows))
        out += self.branch(x)
        return out


def pyramidnet(
    in_shape: tuple[int, int, int],
    classes: int,
    depth: int,
    alpha: int,
    bottleneck: bool,
    shakedrop: bool,
) -> nn.Module:
    """Return a PyramidNet from images (N, C, H, W) to logits (N, classes).

    The width of block k of K is 16 + alpha k / K (section 3.1).

    Args:
        in_shape: The shape of an image, (C, H, W).
        classes: The number of classes.
        depth: The number of layers: 9 n + 2 with bottlenecks, else 6 n + 2.
        alpha: The widening factor.
        bottleneck: If true, blocks are bottlenecks of three convolutions.
        shakedrop: If true, the branch of block k is kept with probability 1 - k / 2K, the linear
            decay rule of Yamada et al. 2018.

    Raises:
        ModelError: The images are under 8 x 8 pixels.
    """
    maps = 16
    layers: list[nn.Module] = [stem(in_shape, maps, nn.BatchNorm2d(maps))]
    per_group = (depth - 2) // (9 if bottleneck else 6)
    blocks = 3 * per_group
    for k in range(1, blocks + 1):
        width = round(16 + alpha * k / blocks)
        stride = 2 if k in (per_group + 1, 2 * per_group + 1) else 1
        keep = 1 - k / (2 * blocks) if shakedrop else None
        layers.append(Block(maps, width, stride, bottleneck, keep))
        maps = width * 4 if bottleneck else width
    network = nn.Sequential(*layers, *pooled_head(maps, classes))
    initialise(network)
    return network
