"""Adaptive SAM (Kwon et al., ICML 2021, arXiv 2102.11600)."""

from __future__ import annotations

from dataclasses import dataclass

from samtune.optimizers.adaptive import Scaling
from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.tensors import Ascent, Gradients, over


@dataclass(eq=False, kw_only=True)
class ASAM(Scaling):
    """SAM in a neighbourhood that scales with the weights, so that rescaling them changes nothing.

        T_i = |w_i| + eta                   for weights, anew in each step; 1 for the others
        eps = rho T^2 g / ||T g||           so that ||eps / T|| = rho; one norm over all parameters
        w  <- Base(w, grad L_B(w + eps))

    `rho` is relative to the weights: about ten times SAM's. A parameter group may have its own
    `rho`, `eta` and `normalize_bias`.
    """

    name = "asam"

    rho: float = knob(
        0.5,
        low=0.0,
        safe=(0.05, 5.0),
        scale="log",
        doc="radius of the neighbourhood, L2 norm of eps / T; 0 gives the base optimizer",
        source="ASAM paper: 0.5 on CIFAR-10, 1 on CIFAR-100 and ImageNet, grid up to 2",
    )

    def ascent(self, g: Gradients, oracle: GradientOracle) -> Ascent:
        """Return eps = rho T^2 g / ||T g||."""
        d, norm = self.stretched(g, oracle)
        return d, over(self.radius, norm)
