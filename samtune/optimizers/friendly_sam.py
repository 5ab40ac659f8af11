"""Friendly SAM (Li et al., CVPR 2024, arXiv 2403.12350)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.pairs import both_norms, paired
from samtune.optimizers.sam import SAM
from samtune.optimizers.tensors import Ascent, Gradients, over


@dataclass(eq=False, kw_only=True)
class FriendlySAM(SAM):
    """SAM that perturbs along the part of the gradient that is specific to the batch.

        v   = g - sigma m                       v = g in the first step
        m  <- lambda m + (1 - lambda) g         m = g in the first step
        eps = rho v / ||v||
        w  <- Base(w, grad L_B(w + eps))

    This is the order of the authors' code (nblt/F-SAM). The paper updates m first: at sigma = 1
    that is the same, and otherwise it is sigma' = sigma lambda / (1 - sigma (1 - lambda)) here.
    If g has not changed, v is rounding noise: at ||v|| <= 1e-6 ||g|| (1e-12 in float64) eps = 0.
    """

    name = "friendly_sam"

    rho: float = knob(
        0.1,
        low=0.0,
        safe=(0.02, 0.5),
        scale="log",
        doc="radius of the neighbourhood, L2 norm in weight space; 0 gives the base optimizer",
        source="nblt/F-SAM: 0.1, and 0.2 on CIFAR-100",
    )
    sigma: float = knob(
        1.0,
        low=0.0,
        safe=(0.0, 1.0),
        doc="share of the mean gradient that is taken away; 0 gives SAM",
        source="nblt/F-SAM: 1",
    )
    lambda_: float = knob(
        0.9,
        low=0.0,
        high=1.0,
        safe=(0.6, 0.99),
        doc="decay of the mean gradient; at 1 it stays the first one",
        source="nblt/F-SAM: 0.9 in the class, 0.6 and 0.95 in its runs",
    )

    def ascent(self, g: Gradients, oracle: GradientOracle) -> Ascent:
        """Return eps = rho v / ||v||; `memory` has the new mean."""
        if not self.sigma:
            return super().ascent(g, oracle)
        means: Gradients = list(self.memory.get("mean") or [None] * len(g))
        old = [(d, m) for d, m in zip(g, means, strict=True) if d is not None and m is not None]
        left = iter(
            torch._foreach_sub([d for d, _ in old], [m for _, m in old], alpha=self.sigma)
            if old
            else ()
        )
        v: Gradients = [
            None if d is None else d.clone() if m is None else next(left)
            for d, m in zip(g, means, strict=True)
        ]
        whole, rest = both_norms(*paired(g, v))
        if old:
            # The new mean, in place on the tensors of g.
            torch._foreach_lerp_([d for d, _ in old], [m for _, m in old], self.lambda_)
        self.memory["mean"] = [m if d is None else d for d, m in zip(g, means, strict=True)]
        noise = 1e-12 if rest.dtype == torch.float64 else 1e-6
        is_signal = rest > noise * whole
        if self.adaptive:
            v, rest = self.stretched(v, oracle)
        return v, is_signal * over(self.radius, rest)
