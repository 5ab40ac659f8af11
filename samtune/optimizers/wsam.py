"""Weighted SAM (Yue et al., KDD 2023, arXiv 2305.15817)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.pairs import paired
from samtune.optimizers.reals import real
from samtune.optimizers.sam import SAM
from samtune.optimizers.tensors import Gradients, accumulate_

_BELOW_ONE = math.nextafter(1.0, 0.0)


@dataclass(eq=False, kw_only=True)
class WSAM(SAM):
    """The loss and, with a weight of your choice, its sharpness as a separate term.

        g   = grad L_B(w),   h = grad L_B(w + rho g / ||g||),   a = gamma / (1 - gamma)
        w  <- Base(w, g)   and then   w <- w - lr a (h - g)     decouple: true
        w  <- Base(w, g + a (h - g))                            decouple: false

    In the decoupled form the sharpness h - g does not go through the base optimizer's momentum and
    preconditioner. The coupled form with gamma = 0.5 is SAM, and gamma = 0 is the base optimizer;
    the coupled form is the penalised gradient norm of Zhao et al. (ICML 2022, arXiv 2202.03599).
    `clip` bounds g, along which the base descends, and a (h - g), each by itself.
    """

    name = "wsam"

    gamma: float = knob(
        0.9,
        low=0.0,
        high=_BELOW_ONE,
        safe=(0.3, 0.95),
        doc="weight of the sharpness, as gamma / (1 - gamma): 0 gives the base optimizer",
        source="atorch's WSAM: 0.9, best from 0.8 to 0.95",
    )
    decouple: bool = knob(
        True,
        doc="descend along the sharpness by itself, after the base optimizer's step",
        source="atorch's WSAM: on",
    )
    _sharpness: Gradients = field(default_factory=list, init=False, repr=False)
    _batch: int = field(default=0, init=False, repr=False)

    @property
    def weight(self) -> float:
        """The weight of the sharpness against the loss, a = gamma / (1 - gamma)."""
        return self.gamma / (1 - self.gamma)

    def direction(self, oracle: GradientOracle) -> Gradients:
        """Return g, or g + a (h - g) in the coupled form; keep a (h - g) for `update`."""
        self._sharpness, self._batch = [None] * len(self.parameters), len(oracle)
        direction = super().direction(oracle)
        self._sharpness = oracle.shared(self._sharpness)
        return direction

    def sharp(self, oracle: GradientOracle) -> Gradients:
        """Return g, or g + a (h - g) in the coupled form, where h has an entry."""
        g = self.gradient(oracle)
        with self.ascended(*self.along(self.masked(g, oracle), oracle, keep=True), keep=True):
            h = self.gradient(oracle)
        clean, d = paired(g, h)
        if not self.decouple:
            # lerp is exact at both ends, so that gamma of 0 and 0.5 are their reductions.
            filled = iter(torch._foreach_lerp(clean, d, self.weight))
            return [None if t is None else next(filled) for t in h]
        torch._foreach_sub_(d, clean)
        accumulate_(self._sharpness, h, self.weight * len(oracle) / self._batch)
        rest = iter(clean)
        return [None if t is None else next(rest) for t in h]

    def update(self, direction: Gradients) -> None:
        """Step the base along g; then, in the decoupled form, w <- w - lr a (h - g)."""
        super().update(direction)
        self.clip_(self._sharpness)
        sharpness, self._sharpness = iter(self._sharpness), []
        for group in self.base.param_groups:
            pairs = [
                (real(p), s)
                for p, s in zip(group["params"], sharpness, strict=False)
                if s is not None
            ]
            if pairs:
                w, s = [w for w, _ in pairs], [s for _, s in pairs]
                lr = group["lr"]
                if isinstance(lr, Tensor):
                    # Passed as `alpha`, the number would be read by the host, which would wait for
                    # it.
                    torch._foreach_sub_(w, torch._foreach_mul(s, lr))
                else:
                    torch._foreach_add_(w, s, alpha=-float(lr))
