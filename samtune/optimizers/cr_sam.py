"""Curvature Regularized SAM (Wu, Luo and Wunsch, AAAI 2024, arXiv 2312.13555)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.pairs import paired
from samtune.optimizers.result import Passes
from samtune.optimizers.sam import SAM
from samtune.optimizers.tensors import Gradients, over


@dataclass(eq=False, kw_only=True)
class CRSAM(SAM):
    """SAM with two finite differences across w, of the curvature and of the slope.

        g   = grad L_B(w),   eps = rho g / ||g||
        h+  = grad L_B(w + eps),   h- = grad L_B(w - eps)
        d   = h+ + gamma (h+ + h- - 2 g) + beta (h+ - h-)
        w  <- Base(w, d)

    The equations are those of the authors' code (TrustAIoT/CR-SAM). gamma = beta = 0 is SAM, and
    needs no third pass.
    """

    name = "cr_sam"

    rho: float = knob(
        0.1,
        low=0.0,
        safe=(0.01, 0.5),
        scale="log",
        doc="radius of the neighbourhood, L2 norm in weight space; 0 gives the base optimizer",
        source="TrustAIoT/CR-SAM: 0.1",
    )
    gamma: float = knob(
        0.1,
        low=0.0,
        safe=(0.0, 1.0),
        doc="weight of the curvature term, h+ + h- - 2 g",
        source="TrustAIoT/CR-SAM: 0.1",
    )
    beta: float = knob(
        0.01,
        low=0.0,
        safe=(0.0, 1.0),
        doc="weight of the slope term, h+ - h-",
        source="TrustAIoT/CR-SAM: 0.01 on its command line, 0.1 in the class",
    )

    @classmethod
    def sharp_passes(cls, knobs: Mapping[str, Any]) -> Passes:
        """Return the passes of g, h+ and, where it is used, h-."""
        return (3.0, 3.0) if knobs["gamma"] or knobs["beta"] else (2.0, 2.0)

    def sharp(self, oracle: GradientOracle) -> Gradients:
        """Return d."""
        if not (self.gamma or self.beta):
            return super().sharp(oracle)
        g = self.gradient(oracle)
        steep, norm = self.steep(self.masked(g, oracle), oracle, keep=True)
        factor = over(self.radius, norm)
        with self.ascended(steep, factor, keep=True):
            up = self.gradient(oracle)
        with self.ascended(steep, -factor, keep=True):
            down = self.gradient(oracle)
        # By the differences from g, because these are exactly 0 at radius 0.
        clean, d = paired(g, up)
        fall, _ = paired(down, up)
        rise = torch._foreach_sub(d, clean)
        torch._foreach_sub_(fall, clean)
        torch._foreach_add_(d, rise, alpha=self.gamma + self.beta)
        torch._foreach_add_(d, fall, alpha=self.gamma - self.beta)
        return up
