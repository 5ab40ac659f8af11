"""Gradient Norm Aware Minimization (Zhang et al., CVPR 2023, arXiv 2303.03108)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.pairs import norm, paired, without_
from samtune.optimizers.tensors import Gradients, along, flat, global_norm, over, shaped
from samtune.optimizers.two_pass import TwoPass
from samtune.optimizers.variant import Passes


@dataclass(eq=False, kw_only=True)
class GAM(TwoPass):
    """First-order flatness, a small gradient norm all around w; the accelerated form, which needs
    no Hessian (appendix D of the paper and xxgege/GAM):

        g0 = grad L_B(w),                           g1 = grad L_B(w + rho' g0 / ||g0||)
        w2 = w + rho (g1 - g0) / ||g1 - g0||,       g2 = grad L_B(w2)
        g3 = grad L_B(w2 + rho' g2 / ||g2||)
        q  = alpha g1 + (1 - alpha) g3,             m = g0 + |1 - beta| g2
        d  = q - gamma (m - (<m, q> / ||q||^2) q)   m less its part along q, as in GSAM
        w <- Base(w, d)

    rho' is `grad_rho`, rho is `grad_norm_rho`. The weight of g0 in m is 1 and not beta, as in the
    authors' code. alpha = 1, gamma = 0 is SAM of radius `grad_rho`, at twice the cost.
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

    def sharp(self, oracle: GradientOracle) -> Gradients:
        g0, seen = self._gradient(oracle)
        # By the sums that SAM takes: bit by bit it is the reduction.
        steep = self.masked(self._parts(g0, seen), oracle)
        with self.perturbed(*along(steep, self.radius), keep=True):
            g1, seen = self._gradient(oracle)
        climb = g1 - g0
        steep = self.masked(self._parts(climb, seen), oracle)
        with self.perturbed(steep, over(self.grad_norm_rho, self._length(climb, steep))):
            g2, seen = self._gradient(oracle)
            steep = self.masked(self._parts(g2, seen), oracle)
            with self.perturbed(steep, over(self.radius, self._length(g2, steep)), keep=True):
                g3 = oracle.grad(self.parameters)
        del climb, steep
        # lerp is exact where its ends are equal, and so is d where all four gradients are one.
        m = g0.lerp_(g2, self._share_of_g2)
        q = g1.lerp_(self._vector(g3), 1 - self.alpha)
        rest = without_(m, q)
        d = q.add_(rest, alpha=-self.gamma / (1 - self._share_of_g2))
        return self._parts(d, [t is not None for t in g3])

    def _gradient(self, oracle: GradientOracle) -> tuple[Tensor, list[bool]]:
        """As a vector, and which parameters have one."""
        g = oracle.grad(self.parameters)
        return self._vector(g), [d is not None for d in g]

    def _vector(self, g: Gradients) -> Tensor:
        """Over all trained parameters, zeros where g has none."""
        return flat(paired(g, self._trained)[0], self._trained)

    @property
    def _trained(self) -> Gradients:
        return [p if p.requires_grad else None for p in self.parameters]

    def _parts(self, v: Tensor, seen: list[bool]) -> Gradients:
        """The vector in the shapes of the parameters, where these have a gradient."""
        pairs = zip(shaped(v, self._trained), seen, strict=True)
        return [t if own else None for t, own in pairs]

    def _length(self, v: Tensor, d: Gradients) -> Tensor:
        """||d|| of parts of v."""
        return norm(v) if self.params == "all" else global_norm(d)

    @property
    def _share_of_g2(self) -> float:
        """In m / (1 + |1 - beta|), a mean of g0 and g2."""
        return (1 - self.beta) / (2 - self.beta)
