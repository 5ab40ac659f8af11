"""Stochastic gradient descent: the baseline, and SAM at rho = 0."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.tensors import Gradients
from samtune.optimizers.variant import Variant


@dataclass(eq=False, kw_only=True)
class SGD(Variant):
    """The step of `torch.optim.SGD`: d = g, one pass."""

    name = "sgd"
    bases = ("sgd",)
    base_type = torch.optim.SGD

    def direction(self, oracle: GradientOracle) -> Gradients:
        """Return g."""
        return self.gradient(oracle)
