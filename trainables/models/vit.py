"""Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), initialised as DeiT.

The sizes are DeiT's Ti and S. torchvision's class takes three channels only, and starts from other
weights than DeiT.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.parts import ModelError


class Attention(nn.Module):
    """Multi-head self-attention (appendix A); tokens (N, T, D) in and out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for a batch."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        attended = F.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return mixed


class StochasticDepth(nn.Module):
    """Random removal of a residual branch per image (Huang et al. 2016, arXiv 1603.09382).

    A kept branch is divided by its probability, so that evaluation needs no factor.
    """

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.keep = 1 - drop

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for a batch."""
        if not self.training or self.keep == 1:
            return x
        kept = torch.rand((len(x), 1, 1), device=x.device) < self.keep
        return x * (kept / self.keep).to(x.dtype)


class Block(nn.Module):
    """Attention and an MLP, each after a LayerNorm and beside a shortcut (equations 2 and 3)."""

    def __init__(self, width: int, heads: int, drop: float) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6), Attention(width, heads), StochasticDepth(drop)
        )
        self.mlp = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            StochasticDepth(drop),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for a batch."""
        x = x + self.attention(x)
        x = x + self.mlp(x)
        return x


class ViT(nn.Module):
    """A network from images (N, C, H, W) of one size to logits (N, classes)."""

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        classes: int,
        *,
        patch: int,
        width: int,
        heads: int,
        depth: int,
        drop: float,
    ) -> None:
        super().__init__()
        channels, height, breadth = in_shape
        tokens = (height // patch) * (breadth // patch) + 1
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = nn.Parameter(torch.empty(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, tokens, width))
        # The drop rate grows linearly with depth, as in DeiT's code.
        rates = [drop * index / max(1, depth - 1) for index in range(depth)]
        self.blocks = nn.Sequential(*(Block(width, heads, rate) for rate in rates))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)
        # As in DeiT's code, where the patches' convolution stays at torch's default.
        for weight in (self.token, self.position):
            nn.init.trunc_normal_(weight, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for a batch."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(x)[:, 0]))
        return logits


def vit(
    in_shape: tuple[int, int, int],
    classes: int,
    width: int,
    heads: int,
    depth: int = 12,
    drop: float = 0.0,
) -> nn.Module:
    """Return a ViT with patches of 4 pixels for images up to 32, of 8 up to 64, and of 16 above.

    Args:
        in_shape: The shape of an image, (C, H, W).
        classes: The number of classes.
        width: The length of a token.
        heads: The number of attention heads.
        depth: The number of blocks.
        drop: The last block's rate of stochastic depth.

    Raises:
        ModelError: The patches do not tile the images.
    """
    _, height, breadth = in_shape
    side = max(height, breadth)
    patch = 4 if side <= 32 else 8 if side <= 64 else 16
    if height % patch or breadth % patch or not min(height, breadth):
        raise ModelError(
            f"images of {height} x {breadth} pixels do not divide into patches of {patch} x "
            f"{patch}; resize them to a multiple of {patch}, or take a network of convolutions, "
            "such as resnet18"
        )
    return ViT(in_shape, classes, patch=patch, width=width, heads=heads, depth=depth, drop=drop)
