"""LookSAM and Look-LayerSAM (Liu et al., CVPR 2022, arXiv 2203.02714)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.pairs import dot, flat, norm, paired, shaped
from samtune.optimizers.tensors import TAU, Ascent, Gradients, alike, global_norm, plus
from samtune.optimizers.two_pass import Sharpened
from samtune.optimizers.variant import knob


@dataclass(eq=False, kw_only=True)
class LookSAM(Sharpened):
    """SAM in each k-th step, which leaves a direction to flatter ground for the steps between:

        t mod k = 0:  g   = grad L_B(w),  eps = rho g / ||g||,  h = grad L_B(w + eps)
                      g_v = h - <g, h> / ||g||^2 g      what h adds to g, orthogonal to it
                      d   = h
        otherwise:    d   = g + alpha ||g|| / ||g_v|| g_v     g of this batch, g_v of the last such
        w <- Base(w, d)

    `alpha` stands in for ||g_v|| / ||g||; `auto` takes that of the last refresh. k is its
    `interval`, and it has no other.
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
    alpha: float | str = knob(
        0.7,
        low=0.0,
        safe=(0.01, 1.0),
        scale="log",
        choices=("auto",),
        doc="length of the reused direction as a share of ||g||; 0 reuses none, and auto takes "
        "the share that it had at the last refresh",
        source="LookSAM paper: 0.7; a true ||g_v|| / ||g|| is rather 0.1 to 0.5. auto is "
        "samtune's own",
    )

    @property
    def passes(self) -> tuple[float, float]:
        return 1 + 1 / self.k, 1 + 1 / self.k

    def sharp(self, oracle: GradientOracle) -> Gradients:
        t = self.state.get("t", 0)
        self.state["t"] = t + 1
        refresh = t % self.k == 0
        if refresh and self.k > 1 and self.alpha:
            return self._refresh(oracle)
        g = oracle.grad(self.parameters)
        if refresh:
            with self.perturbed(*self.ascent(self.masked(g, oracle))):
                return oracle.grad(self.parameters)
        if "v" not in self.state:
            return g
        share = self.alpha if isinstance(self.alpha, float) else 1.0
        return plus(g, self.state["v"], share * global_norm(g))

    def ascent(self, g: Gradients, length: Tensor | None = None) -> Ascent:
        """eps, in the tensors of g; `length` is ||g|| where that is known, and not 0."""
        return g, self.radius / (global_norm(g) + TAU if length is None else length)

    def _refresh(self, oracle: GradientOracle) -> Gradients:
        """h; leaves g_v at the length that goes with ||g|| = alpha = 1, which is g_v / ||g_v||,
        or g_v / ||g||."""
        g = oracle.grad(self.parameters)
        like = [None if d is None else p for p, d in zip(self.parameters, g, strict=True)]
        clean = flat([d for d in g if d is not None])
        square = dot(clean, clean).clamp_min(TAU**2)
        length = square.sqrt()
        known = length if self.params == "all" else None
        with self.perturbed(*self.ascent(self.masked(g, oracle), known)):
            # Its tensors are the second set of weights now, which is to end with the block.
            del g
            h = oracle.grad(self.parameters)
        v = flat(paired(h, like)[0])
        whole = norm(v)
        # In one kind of sum, which makes it exactly 0 where h is g.
        v.addcmul_(clean, dot(clean, v) / square, value=-1)
        left = norm(v)
        # Where h is parallel to g, what is left is rounding, and would be blown up to alpha ||g||.
        parallel = left <= _noise(v.dtype) * whole
        v /= (length if self.alpha == "auto" else left).masked_fill(parallel, torch.inf)
        self.state["v"] = shaped(v, like)
        return h


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

    def ascent(self, g: Gradients, length: Tensor | None = None) -> Ascent:
        factor: Tensor | float = self.radius
        if self.layer_rule == "global":
            factor = factor / (global_norm(g) + TAU if length is None else length)
        weights = {id(d): w.detach() for w, d in zip(self.parameters, g, strict=True)}
        for group in alike(d for d in g if d is not None):
            _rescale_(group, [weights[id(d)] for d in group], factor)
        return g, 1.0


def _rescale_(group: list[Tensor], weights: list[Tensor], factor: Tensor | float) -> None:
    """d <- factor ||w|| d / ||d|| for each d of the group and its w."""
    dtype = torch.promote_types(group[0].dtype, torch.float32)
    norms = torch.stack(torch._foreach_norm([*weights, *group], 2, dtype=dtype))
    of_weights, of_group = norms.view(2, -1)
    if isinstance(factor, Tensor):
        factor = factor.to(norms.device)
    shares = (of_weights / of_group.add_(TAU)).mul_(factor)
    # A list of 0-dim factors would take a launch for each tensor.
    sizes = [d.numel() for d in group]
    spread = torch.cat([s.expand(n) for s, n in zip(shares.unbind(), sizes, strict=True)])
    parts = zip(torch.split(spread, sizes), group, strict=True)
    torch._foreach_mul_(group, [s.as_strided(d.shape, d.stride()) for s, d in parts])


def _noise(dtype: torch.dtype) -> float:
    return 1e-6 if dtype == torch.float32 else 1e-12
