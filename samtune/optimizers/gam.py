"""Gradient Norm Aware Minimization (Zhang et al., CVPR 2023, arXiv 2303.03108)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.pairs import norm, paired, without_
from samtune.optimizers.result import Passes
from samtune.optimizers.tensors import Gradients, along, flat, global_norm, over, shaped
from samtune.optimizers.two_pass import TwoPass


@dataclass(eq=False, kw_only=True)
class GAM(TwoPass):
    """First-order flatness: a small gradient norm all around w.

    This is the accelerated form, which needs no Hessian (appendix D of the paper and xxgege/GAM):

        g0 = grad L_B(w),                           g1 = grad L_B(w + rho' g0 / ||g0||)
        w2 = w + rho (g1 - g0) / ||g1 - g0||,       g2 = grad L_B(w2)
        g3 = grad L_B(w2 + rho' g2 / ||g2||)
        q  = alpha g1 + (1 - alpha) g3,             m = g0 + |1 - beta| g2
        d  = q - gamma (m - (<m, q> / ||q||^2) q)   m less its part along q, as in GSAM
        w <- Base(w, d)

    rho' is `grad_rho`, rho is `grad_norm_rho`; a parameter group may have its own. The weight of
    g0 in m is 1 and not beta, as in the authors' code. alpha = 1, gamma = 0 is SAM of radius
    `grad_rho`, at twice the cost.
    """

    name = "gam"
    radius_knob = "grad_rho"

    grad_rho: float = knob(
        0.02,
        low=0.0,
        safe=(0.005, 0.2),
        scale="log",
        doc="rho', the step of the finite difference along the gradient, L2 norm",
        source="xxgege/GAM: 0.02 to 0.04 on CIFAR",
    )
    grad_norm_rho: float = knob(
        0.2,
        low=0.0,
        safe=(0.02, 1.0),
        scale="log",
        doc="rho, radius within which the gradient norm is to be small, L2 norm",
        source="xxgege/GAM: 0.2 on CIFAR",
    )
    alpha: float = knob(
        0.6,
        low=0.0,
        high=1.0,
        safe=(0.1, 1.0),
        doc="share of SAM's gradient g1 against that of the gradient norm, g3",
        source="xxgege/GAM (grad_beta_1): 0.1 on CIFAR-10, 0.5 to 0.6 on CIFAR-100",
    )
    beta: float = knob(
        0.5,
        low=0.0,
        high=1.0,
        safe=(0.1, 1.0),
        doc="1 less the weight of g2 in m",
        source="xxgege/GAM (grad_beta_0): 0.1 on CIFAR-10, 0.3 to 0.5 on CIFAR-100",
    )
    gamma: float = knob(
        0.03,
        low=0.0,
        safe=(0.0, 0.5),
        doc="weight of the orthogonal part, as alpha of GSAM",
        source="xxgege/GAM (grad_gamma): 0.03 to 0.05 on CIFAR",
    )

    @classmethod
    def sharp_passes(cls, knobs: Mapping[str, Any]) -> Passes:
        """Return the passes of g0, g1, g2 and g3."""
        return 4.0, 4.0

    @classmethod
    def knobs_of_groups(cls) -> tuple[str, ...]:
        """Return both radii, and the schedule of the first."""
        return (*super().knobs_of_groups(), "grad_norm_rho")

    def sharp(self, oracle: GradientOracle) -> Gradients:
        """Return d."""
        g0, seen = self._gradient(oracle)
        # By the same sums as SAM's, so that the reduction is exact bit by bit.
        steep = self.masked(self._parts(g0, seen), oracle)
        with self.ascended(*along(steep, self.radius), keep=True):
            g1, seen = self._gradient(oracle)
        climb = g1 - g0
        steep = self.masked(self._parts(climb, seen), oracle)
        outer = [self.value_in(group, "grad_norm_rho") for group in self.base.param_groups]
        factor = over(max(outer), self._length(climb, steep))
        with self.ascended(steep, factor, radii=outer):
            g2, seen = self._gradient(oracle)
            steep = self.masked(self._parts(g2, seen), oracle)
            with self.ascended(steep, over(self.radius, self._length(g2, steep)), keep=True):
                g3 = self.gradient(oracle)
        del climb, steep
        # lerp is exact where its ends are equal, and so is d where all four gradients are one.
        m = g0.lerp_(g2, self._share_of_g2)
        q = g1.lerp_(self._vector(g3), 1 - self.alpha)
        rest = without_(m, q)
        d = q.add_(rest, alpha=-self.gamma / (1 - self._share_of_g2))
        return self._parts(d, [t is not None for t in g3])

    def _gradient(self, oracle: GradientOracle) -> tuple[Tensor, list[bool]]:
        """Return the gradient as a vector, and which weights have one."""
        g = self.gradient(oracle)
        return self._vector(g), [d is not None for d in g]

    def _vector(self, g: Gradients) -> Tensor:
        """Return g over all trained weights, with zeros where it is None."""
        return flat(paired(g, self._trained)[0], self._trained)

    @property
    def _trained(self) -> Gradients:
        pairs = zip(self.parameters, self.weights, strict=True)
        return [w if p.requires_grad else None for p, w in pairs]

    def _parts(self, v: Tensor, seen: list[bool]) -> Gradients:
        """Return the vector in the shapes of the weights, where these have a gradient."""
        pairs = zip(shaped(v, self._trained), seen, strict=True)
        return [t if own else None for t, own in pairs]

    def _length(self, v: Tensor, d: Gradients) -> Tensor:
        """Return ||d|| of parts of v."""
        return norm(v) if self.params == "all" else global_norm(d)

    @property
    def _share_of_g2(self) -> float:
        """The weight of g2 in m / (1 + |1 - beta|), a mean of g0 and g2."""
        return (1 - self.beta) / (2 - self.beta)
