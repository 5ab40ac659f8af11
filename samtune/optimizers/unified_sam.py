"""Unified SAM (Oikonomou and Loizou, ICLR 2025, arXiv 2503.02225)."""

from __future__ import annotations

from dataclasses import dataclass

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.sam import SAM
from samtune.optimizers.tensors import Ascent, Gradients, over


@dataclass(eq=False, kw_only=True)
class UnifiedSAM(SAM):
    """A method between SAM, which perturbs by rho, and USAM, which perturbs by rho ||g||.

        eps = rho (1 - lambda + lambda / ||g||) g       g = grad L_B(w)
        w  <- Base(w, grad L_B(w + eps))

    `lambda_` 1 is SAM and 0 is USAM, eps = rho g, which depends on the scale of the loss.
    """

    name = "unified_sam"

    lambda_: float = knob(
        0.5,
        low=0.0,
        high=1.0,
        safe=(0.0, 1.0),
        doc="share of normalisation: 1 gives SAM, 0 an unnormalised perturbation",
        source="Unified SAM paper: from 0 (USAM) to 1 (SAM)",
    )

    def ascent(self, g: Gradients, oracle: GradientOracle) -> Ascent:
        """Return eps = rho (1 - lambda + lambda / ||g||) g."""
        d, norm = self.steep(g, oracle)
        normalised = over(self.radius * self.lambda_, norm)
        return d, self.radius * (1 - self.lambda_) + normalised
