"""LookSAM and Look-LayerSAM (Liu et al., CVPR 2022, arXiv 2203.02714)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.pairs import flat, paired, shaped, without_
from samtune.optimizers.tensors import Gradients, global_norm, plus, scaled
from samtune.optimizers.two_pass import Sharpened
from samtune.optimizers.variant import TAU, knob


@dataclass(eq=False, kw_only=True)
class LookSAM(Sharpened):
    """SAM in each k-th step, which leaves a direction to flatter ground for the steps between:

        t mod k = 0:  g   = grad L_B(w),  eps = rho g / ||g||,  h = grad L_B(w + eps)
                      g_v = h - <g, h> / ||g||^2 g      what h adds to g, orthogonal to it
                      d   = h
        otherwise:    d   = g + alpha ||g|| / ||g_v|| g_v     g of this batch, g_v of the last such
        w <- Base(w, d)

    `alpha` stands in for ||g_v|| / ||g||, which `auto_alpha` takes from the last refresh instead.
    """

    name = "look_sam"

    rho: float = knob(
        0.1,
        low=0.0,
        safe=(0.02, 0.5),
        scale="log",
        doc="radius of the neighbourhood, L2 norm in weight space; 0 gives the base optimizer",
        source="third-party LookSAMs: 0.05 to 0.3",
    )
    k: int = knob(
        5,
        low=1,
        safe=(1, 10),
        scale="log",
        doc="steps per perturbed step, the first of each k; 1 is SAM",
        source="LookSAM paper: 5, and 10 in the ablation",
    )
    alpha: float = knob(
        0.7,
        low=0.0,
        safe=(0.01, 1.0),
        scale="log",
        doc="length of the reused direction as a share of ||g||; 0 reuses none",
        source="LookSAM paper: 0.7; a true ||g_v|| / ||g|| is rather 0.1 to 0.5",
    )
    auto_alpha: bool = knob(
        False,
        doc="take ||g_v|| / ||g|| of the last refresh in place of alpha",
        source="samtune's own; not in the paper",
    )

    @property
    def passes(self) -> tuple[float, float]:
        return 1 + 1 / self.k, 1 + 1 / self.k

    def sharp(self, oracle: GradientOracle) -> Gradients:
        t = self.state.get("t", 0)
        self.state["t"] = t + 1
        g = oracle.grad(self.parameters)
        if t % self.k == 0:
            with self.perturbed(self.ascent(self.masked(g, oracle))):
                h = oracle.grad(self.parameters)
            if self.k > 1 and (self.alpha or self.auto_alpha):
                self.state["v"] = self._reusable(g, h)
            return h
        if "v" not in self.state:
            return g
        alpha = 1.0 if self.auto_alpha else self.alpha
        return plus(g, self.state["v"], alpha * global_norm(g))

    def ascent(self, g: Gradients) -> Gradients:
        """eps, in new tensors."""
        return scaled(g, self.radius / (global_norm(g) + TAU))

    def _reusable(self, g: Gradients, h: Gradients) -> Gradients:
        """g_v at the length that goes with ||g|| = alpha = 1: g_v / ||g_v||, or g_v / ||g||."""
        missing_as_zeros, present = paired(h, g)
        clean, v = flat(present), flat(missing_as_zeros)
        whole = torch.linalg.vector_norm(v)
        without_(v, clean)
        left = torch.linalg.vector_norm(v)
        length = 1 / ((torch.linalg.vector_norm(clean) if self.auto_alpha else left) + TAU)
        # Where h is parallel to g, what is left is rounding, and would be blown up to alpha ||g||.
        v *= length.masked_fill(left <= _noise(v.dtype) * whole, 0.0)
        return shaped(v, g)


@dataclass(eq=False, kw_only=True)
class LookLayerSAM(LookSAM):
    """LookSAM with a perturbation for each tensor ("layer") l in proportion to its weights:

        lars:    eps_l = rho ||w_l|| g_l / ||g_l||              so ||eps_l|| / ||w_l|| = rho
        global:  eps_l = rho ||w_l|| / ||g_l|| g_l / ||g||      the paper's, as far as it is known

    A tensor whose weights are all 0 is not perturbed.
    """

    name = "look_layer_sam"

    rho: float = knob(
        0.02,
        low=0.0,
        safe=(0.001, 0.2),
        scale="log",
        doc="radius of each tensor relative to its weights",
        source="samtune's own: such that the global radius is SAM's",
    )
    layer_rule: str = knob(
        "lars",
        choices=("lars", "global"),
        doc="lars: layers by their own norms alone; global: also divided by ||g||",
        source="global: the paper as third parties have it, grows as training converges",
    )

    def ascent(self, g: Gradients) -> Gradients:
        pairs = [(w.detach(), d) for w, d in zip(self.parameters, g, strict=True) if d is not None]
        whole: Tensor | float = global_norm(g) + TAU if self.layer_rule == "global" else 1.0
        found = iter(_rescaled(pairs, self.radius / whole))
        return [None if d is None else next(found) for d in g]


def _rescaled(pairs: list[tuple[Tensor, Tensor]], factor: Tensor | float) -> list[Tensor]:
    """factor ||w|| d / ||d|| for each pair (w, d)."""
    if not pairs:
        return []
    weights = torch._foreach_norm([w for w, _ in pairs])
    lengths = torch._foreach_norm([d for _, d in pairs])
    torch._foreach_add_(lengths, TAU)
    torch._foreach_div_(weights, lengths)
    torch._foreach_mul_(weights, factor)
    return list(torch._foreach_mul([d for _, d in pairs], weights))


def _noise(dtype: torch.dtype) -> float:
    return 1e-6 if dtype == torch.float32 else 1e-12
