"""Fisher SAM (Kim et al., ICML 2022, arXiv 2206.04920)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.pairs import mean_square
from samtune.optimizers.result import Passes
from samtune.optimizers.tensors import Ascent, Gradients, along, global_norm, over
from samtune.optimizers.two_pass import TwoPass


@dataclass(eq=False, kw_only=True)
class FisherSAM(TwoPass):
    """SAM in an ellipsoid shaped by the diagonal empirical Fisher information.

        F   = 1 + eta f                         g = grad L_B(w), the mean over the batch
        f   = g^2                               fisher: batch
        f   = mean_i (grad l_i(w))^2            fisher: sample, over the samples of the batch
        eps = rho F^-1 g / sqrt(g^T F^-1 g)     so that eps^T F eps = rho^2
        w  <- Base(w, grad L_B(w + eps))

    Squares are elementwise, a complex weight counts as two real ones. The authors have published
    no code; others take f from the batch's gradient. The paper calls `rho` gamma. Unlike SAM's,
    eps depends on the scale of the loss. On a ResNet with 8e4 parameters g^2 is about 1e-6: there
    eta up to 1 gives SAM to six digits, and 1e4 does not. `fisher: sample` makes one pass per
    sample, three passes over the batch in all. BatchNorm then normalises each sample by itself, so
    it is for networks without BatchNorm. A parameter group may have its own `rho` and `eta`.
    """

    name = "fisher_sam"

    rho: float = knob(
        0.1,
        low=0.0,
        safe=(0.01, 0.5),
        scale="log",
        doc="radius of the ellipsoid, in the norm of F; 0 gives the base optimizer",
        source="torch-unified-SAM-optimization: 0.1 (named gamma)",
    )
    eta: float = knob(
        1.0,
        low=0.0,
        safe=(0.1, 1e6),
        scale="log",
        doc="weight of the Fisher information; 0 gives SAM",
        source="torch-unified-SAM-optimization: 0.2 to 1; batch gradients need more",
    )
    fisher: str = knob(
        "batch",
        choices=("batch", "sample"),
        doc="f: the square of the batch's gradient, or the mean of the samples' squares",
        source="batch: torch-unified-SAM-optimization; sample: the definition",
    )

    @classmethod
    def sharp_passes(cls, knobs: Mapping[str, Any]) -> Passes:
        """Return the passes of a perturbed step; the true f takes one more."""
        return (3.0, 3.0) if knobs["eta"] and knobs["fisher"] == "sample" else (2.0, 2.0)

    @classmethod
    def knobs_of_groups(cls) -> tuple[str, ...]:
        """Return the radius and its schedule, and the weight of the Fisher information."""
        return (*super().knobs_of_groups(), "eta")

    def ascent(self, g: Gradients, oracle: GradientOracle) -> Ascent:
        """Return eps = rho F^-1 g / sqrt(g^T F^-1 g)."""
        etas = self.values("eta")
        if not any(etas):
            return along(g, self.radius)
        own = [i for i, d in enumerate(g) if d is not None]
        n = [d for d in g if d is not None]
        if self.fisher == "batch":
            root = list(torch._foreach_mul(n, n))
        else:
            squares = mean_square(oracle, [self.parameters[i] for i in own])
            root = [
                torch.zeros_like(d) if f is None else f for d, f in zip(n, squares, strict=True)
            ]
        torch._foreach_mul_(root, [etas[i] for i in own])
        torch._foreach_add_(root, 1)
        torch._foreach_sqrt_(root)
        # In place on the tensors of g: first F^-1/2 g, whose norm is the root of g^T F^-1 g.
        torch._foreach_div_(n, root)
        q = global_norm(n)
        torch._foreach_div_(n, root)
        return g, over(self.radius, q)
