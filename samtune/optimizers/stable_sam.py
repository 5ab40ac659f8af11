"""Stable SAM (Tan et al., JMLR 2025, arXiv 2401.07250)."""

from __future__ import annotations

from dataclasses import dataclass

from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.sam import SAM
from samtune.optimizers.tensors import TAU, Gradients, global_norm, norms_with_part, over, scale_


@dataclass(eq=False, kw_only=True)
class StableSAM(SAM):
    """SAM's direction at the length of the clean gradient, which allows larger learning rates.

    g  = grad L_B(w),   h = grad L_B(w + rho g / ||g||)
    w <- Base(w, (||g|| / ||h||) h)
    """

    name = "stable_sam"

    def sharp(self, oracle: GradientOracle) -> Gradients:
        """Return (||g|| / ||h||) h."""
        g = self.gradient(oracle)
        steep = self.masked(g, oracle)
        if self.adaptive:
            length = global_norm(g)
            steep, perturbed = self.stretched(steep, oracle)
        elif steep is g:
            length = perturbed = global_norm(g)
        else:
            length, perturbed = norms_with_part(g, steep)
        with self.ascended(steep, over(self.radius, perturbed)):
            h = self.gradient(oracle)
        return scale_(h, length / global_norm(h).clamp_min(TAU))
