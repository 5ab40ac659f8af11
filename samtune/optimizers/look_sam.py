"""LookSAM and Look-LayerSAM (Liu et al., CVPR 2022, arXiv 2203.02714)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.pairs import dot, paired
from samtune.optimizers.result import Passes
from samtune.optimizers.tensors import (
    TAU,
    Ascent,
    Gradients,
    along,
    flat,
    global_norm,
    plus,
    shaped,
)
from samtune.optimizers.two_pass import Sharpened

_SUMS = ("square", "share", "rest")
"""Names of the sums that give the length of g_v: ||g||^2, <g, h> / ||g||^2, and ||g_v||^2."""


@dataclass(eq=False, kw_only=True)
class LookSAM(Sharpened):
    """SAM in each k-th step; the steps between reuse its direction to flatter ground.

        t mod k = 0:  g   = grad L_B(w),  eps = rho g / ||g||,  h = grad L_B(w + eps)
                      g_v = h - <g, h> / ||g||^2 g      what h adds to g, orthogonal to it
                      d   = h
        otherwise:    d   = g + alpha ||g|| / ||g_v|| g_v     g of this batch, g_v of the last such
        w <- Base(w, d)

    `alpha` replaces ||g_v|| / ||g||, and `auto` uses the ratio at the last refresh. An entry of
    g_v is used only where g has one. k is the interval, and there is no knob of that name.
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
        source="third-party LookSAMs: 0.7; a true ||g_v|| / ||g|| is rather 0.1 to 0.5. auto is "
        "samtune's own",
    )

    @classmethod
    def passes_of(cls, knobs: Mapping[str, Any]) -> Passes:
        """Return the mean passes per step: each k-th step has a second pass."""
        return 1 + 1 / knobs["k"], 1 + 1 / knobs["k"]

    def sharp(self, oracle: GradientOracle) -> Gradients:
        """Return h in a refresh, and g + alpha ||g|| / ||g_v|| g_v in a step between."""
        t = self.memory.get("t", 0)
        self.memory["t"] = t + 1
        refresh = t % self.k == 0
        if refresh and self.k > 1 and self.alpha:
            return self._refresh(oracle)
        g = self.gradient(oracle)
        if refresh:
            with self.ascended(*self.ascent(self.masked(g, oracle))):
                return self.gradient(oracle)
        if "v" not in self.memory:
            return g
        if "rest" in self.memory:
            # Not in the refresh step, which already has many launches.
            self.memory["length"] = self._length()
            for name in _SUMS:
                del self.memory[name]
        share = 1.0 if self.alpha == "auto" else float(self.alpha)
        # The stored direction is no gradient: frozen weights, and those of an unused head, must
        # stay.
        v = [None if d is None else old for d, old in zip(g, self.memory["v"], strict=True)]
        return plus(g, v, share * global_norm(g) / self.memory["length"])

    def kind(self) -> Hashable:
        """Return whether the next step refreshes g_v, for each chunk."""
        chunks = self.memory.get("chunks") or [self.memory]
        return tuple(memory.get("t", 0) % self.k == 0 for memory in chunks)

    def ascent(self, g: Gradients, square: Tensor | None = None) -> Ascent:
        """Return eps by this variant's equations.

        Args:
            g: the gradient where `params` perturbs; its tensors may be changed.
            square: the whole ||g||^2 where it is known; it is made positive in place.
        """
        if square is not None:
            square.clamp_min_(TAU**2)
        if square is None or self.params != "all":
            return along(g, self.radius)
        return g, square.rsqrt() * self.radius

    def _refresh(self, oracle: GradientOracle) -> Gradients:
        """Return h; keep g_v, and the sums that give its length."""
        g = self.gradient(oracle)
        like = [None if d is None else w for w, d in zip(self.weights, g, strict=True)]
        clean = flat([d for d in g if d is not None], like)
        g = shaped(clean, like)
        square = dot(clean, clean)
        with self.ascended(*self.ascent(self.masked(g, oracle), square), keep=True):
            del g
            h = self.gradient(oracle)
        v = flat(paired(h, like)[0], like)
        # By the same kind of sum as above: v is then exactly 0 where h is g.
        share = dot(clean, v) / square
        v.addcmul_(clean, share, value=-1)
        self.memory |= {"square": square, "share": share, "rest": dot(v, v)}
        self.memory["v"] = shaped(v, like)
        return h

    def _length(self) -> Tensor:
        """Return the divisor of g_v: ||g_v||, or ||g|| for auto; inf where g_v is noise."""
        sums: list[Tensor] = [self.memory[name] for name in _SUMS]
        square, share, rest = sums
        # ||g_v||^2 less its rounding error, which is all that is left where h is parallel to g.
        above = torch.addcmul(rest, share * share, square, value=-(_noise(rest.dtype) ** 2))
        if self.alpha == "auto":
            above = square.masked_fill(above <= 0, torch.inf)
        else:
            above = torch.threshold(above, 0.0, torch.inf)
        return above.sqrt()


@dataclass(eq=False, kw_only=True)
class LookLayerSAM(LookSAM):
    """LookSAM with a perturbation for each tensor ("layer") l in proportion to its weights.

        lars:    eps_l = rho ||w_l|| g_l / ||g_l||              so ||eps_l|| / ||w_l|| = rho
        global:  eps_l = rho ||w_l|| / ||g_l|| g_l / ||g||      the paper's, by other people's code

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

    @classmethod
    def uncaptured_of(cls, knobs: Mapping[str, Any]) -> str | None:
        """Return why a CUDA graph cannot hold steps with these knobs; None if it can."""
        if knobs["rho_schedule"] != "constant":
            return "its radius is a number for each layer, and only rho_schedule constant keeps it"
        return super().uncaptured_of(knobs)

    def ascent(self, g: Gradients, square: Tensor | None = None) -> Ascent:
        """Return eps_l for each tensor: rho, and a factor of its own."""
        pairs = [(w, d) for w, d in zip(self.weights, g, strict=True) if d is not None]
        both = [w for w, _ in pairs] + [d for _, d in pairs]
        dtype = reduce(torch.promote_types, (t.dtype for t in both), torch.float32)
        norms = torch._foreach_norm(both, 2, dtype=dtype)
        of_weights, of_g = norms[: len(pairs)], norms[len(pairs) :]
        raised = {} if square is None else {square: TAU**2}
        whole = square if self.params == "all" else None
        if self.layer_rule == "global" and whole is None:
            raised[length := torch.linalg.vector_norm(torch.stack(of_g))] = TAU
        torch._foreach_add_([*of_g, *raised], [TAU] * len(of_g) + [*raised.values()])
        if self.layer_rule == "global":
            torch._foreach_mul_(of_g, length if whole is None else whole.sqrt())
        torch._foreach_div_(of_weights, of_g)
        shares = iter(of_weights)
        return g, (max(self.radii), [None if d is None else next(shares) for d in g])


def _noise(dtype: torch.dtype) -> float:
    return 1e-6 if dtype == torch.float32 else 1e-12
