"""Sharpness-Aware Minimization (Foret et al., ICLR 2021, arXiv 2010.01412)."""

from __future__ import annotations

from dataclasses import dataclass

from samtune.optimizers.adaptive import Adaptive
from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.tensors import Ascent, Gradients


@dataclass(eq=False, kw_only=True)
class SAM(Adaptive):
    """Descent along the gradient at the worst point, to first order, within `rho` of w.

        g   = grad L_B(w)
        eps = rho g / ||g||         (eq. 2 with p = 2; one norm over all parameters)
        h   = grad L_B(w + eps)     (eq. 3; the same batch)
        w  <- Base(w, h)

    Weight decay and momentum act in the base optimizer, at w.
    """

    name = "sam"

    rho: float = knob(
        0.05,
        low=0.0,
        safe=(0.01, 0.5),
        scale="log",
        doc="radius of the neighbourhood, L2 norm in weight space; 0 gives the base optimizer",
        source="SAM paper: chosen 0.02 to 0.2 from a grid of 0.01 to 0.5",
    )

    def ascent(self, g: Gradients, oracle: GradientOracle) -> Ascent:
        """Return eps = rho g / ||g||, or ASAM's with `adaptive`."""
        return self.along(g, oracle)
