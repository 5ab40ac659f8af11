"""Surrogate Gap Guided SAM (Zhuang et al., ICLR 2022, arXiv 2203.08065)."""

from __future__ import annotations

from dataclasses import dataclass

from samtune.optimizers.adaptive import Adaptive
from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.pairs import paired, without_
from samtune.optimizers.tensors import Gradients, flat, shaped


@dataclass(eq=False, kw_only=True)
class GSAM(Adaptive):
    """SAM that also reduces L(w + eps) - L(w), as far as this leaves L(w + eps) unchanged.

        rho_t  = rho_min + (rho_max - rho_min) (lr_t - lr_min) / (lr_max - lr_min)
        g      = grad L_B(w),   eps = rho_t g / ||g||,   h = grad L_B(w + eps)
        g_perp = g - (<g, h> / ||h||^2) h                   the part of g orthogonal to h
        d      = h - alpha g_perp                           so that <d, h> = ||h||^2
        w     <- Base(w, d)                                 (algorithm 1)

    `alpha` 0 is SAM at the radius rho_t, and `rho_schedule: constant` keeps that at rho_max. If
    nobody calls `set_progress`, lr_max is the first learning rate of a group and lr_min is 0.
    """

    name = "gsam"
    radius_knob = "rho_max"

    rho_max: float = knob(
        0.04,
        low=0.0,
        safe=(0.02, 1.0),
        scale="log",
        doc="first radius of the neighbourhood, L2 norm; 0 throughout gives the base optimizer",
        source="GSAM paper, table 4: 0.04 for ResNets, 0.6 for ViT",
    )
    alpha: float = knob(
        0.1,
        low=0.0,
        safe=(0.0, 1.0),
        scale="log",
        doc="weight of the surrogate gap; 0 gives SAM",
        source="GSAM paper, table 4: 0.005 to 0.01 for ResNets, 0.4 to 1 for ViT",
    )
    rho_schedule: str = knob(
        "lr",
        choices=("constant", "linear", "cosine", "lr"),
        doc="how the radius goes from rho_max to rho_min: by default in proportion to lr",
        source="GSAM paper, algorithm 1",
    )

    def sharp(self, oracle: GradientOracle) -> Gradients:
        """Return d = h - alpha g_perp."""
        g = self.gradient(oracle)
        with self.ascended(*self.along(self.masked(g, oracle), oracle, keep=True), keep=True):
            h = self.gradient(oracle)
        if not self.alpha:
            return h
        clean, steep = paired(g, h)
        vector = flat(clean, steep)
        # Beside the copies of h, only one copy of g exists at a time.
        del g, clean
        d = flat(steep, steep)
        g_perp = without_(vector, d)
        return shaped(d.add_(g_perp, alpha=-self.alpha), h)
