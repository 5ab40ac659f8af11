"""ShakeDrop (Yamada et al. 2018, arXiv 1802.02375)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ShakeDrop(nn.Module):
    """Noise on a residual branch; shape (N, C, H, W) in and out.

    In training, each image's branch stays as it is with probability `keep`. Otherwise it is
    multiplied by alpha, uniform in [-1, 1], and its gradient by beta, uniform in [0, 1] and drawn
    separately: (b + alpha - b alpha) F(x) with b from Bernoulli(keep). In evaluation the branch is
    multiplied by the expectation, which is `keep`.

    There is one draw per image, as in AutoAugment's and SAM's code. It comes from torch's
    generator, so a pass that replays the random state has the same alpha and beta.
    """

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for a batch."""
        if not self.training:
            return x * self.keep
        gate, alpha, beta = torch.rand((3, len(x), 1, 1, 1), device=x.device).unbind()
        kept = gate < self.keep
        forward = torch.where(kept, 1.0, 2 * alpha - 1).to(x.dtype)
        backward = torch.where(kept, 1.0, beta).to(x.dtype)
        shaken: Tensor = _Scaled.apply(x, forward, backward)
        return shaken

    def extra_repr(self) -> str:
        """Return the arguments for the module's repr."""
        return f"keep={self.keep:g}"


class _Scaled(torch.autograd.Function):
    """Multiplies x by one factor, and in the backward pass its gradient by another."""

    @staticmethod
    def forward(x: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
        return x * forward

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (factor,) = ctx.saved_tensors
        return gradient * factor, None, None
