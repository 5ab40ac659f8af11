"""AdamW: the adaptive baseline (Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.tensors import Gradients
from samtune.optimizers.variant import Variant


@dataclass(eq=False, kw_only=True)
class AdamW(Variant):
    """The step of `torch.optim.AdamW`: d = g, one pass."""

    name = "adamw"
    bases = ("adamw",)
    base_type = torch.optim.AdamW

    def direction(self, oracle: GradientOracle) -> Gradients:
        """Return g."""
        return self.gradient(oracle)
