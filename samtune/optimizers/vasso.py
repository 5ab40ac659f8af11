"""Variance Suppressed SAM (Li and Giannakis, NeurIPS 2023, arXiv 2309.15639)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.sam import SAM
from samtune.optimizers.tensors import Gradients


@dataclass(eq=False, kw_only=True)
class VaSSO(SAM):
    """SAM that perturbs along a running mean of the gradient, less noisy than that of a batch.

        e  <- (1 - theta) e + theta g           e = g in the first step
        eps = rho e / ||e||
        w  <- Base(w, grad L_B(w + eps))

    Friendly SAM does the opposite and takes the mean away. `theta` 1 is SAM.
    """

    name = "vasso"

    theta: float = knob(
        0.9,
        low=0.0,
        high=1.0,
        safe=(0.2, 1.0),
        doc="weight of the newest gradient in the mean; 1 gives SAM",
        source="BingcongLi/VaSSO: 0.9, and runs from 0.2",
    )

    def sharp(self, oracle: GradientOracle) -> Gradients:
        """Return grad L_B(w + rho e / ||e||)."""
        g = self.gradient(oracle)
        e = self._mean_with(self.masked(g, oracle))
        with self.ascended(*self.along(e, oracle, keep=True), keep=True):
            return self.gradient(oracle)

    def _mean_with(self, g: Gradients) -> Gradients:
        """Return the new mean, None where g is None; `memory` has it."""
        means: Gradients = list(self.memory.get("mean") or [None] * len(g))
        seen = [(d, m) for d, m in zip(g, means, strict=True) if d is not None and m is not None]
        if seen:
            # The new mean, in place on the tensors of g.
            torch._foreach_lerp_([d for d, _ in seen], [m for _, m in seen], 1 - self.theta)
        self.memory["mean"] = [m if d is None else d for d, m in zip(g, means, strict=True)]
        return g
