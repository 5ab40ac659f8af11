"""Gradient Norm Aware Minimization (Zhang et al., CVPR 2023, arXiv 2303.03108)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.pairs import flat, paired, shaped, without_
from samtune.optimizers.tensors import Gradients, along
from samtune.optimizers.two_pass import TwoPass
from samtune.optimizers.variant import knob


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
    sharp_passes = (4.0, 4.0)

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

    def sharp(self, oracle: GradientOracle) -> Gradients:
        g0, g1, g2, g3 = self._gradients(oracle)
        # lerp is exact where g1 = g3, and the part orthogonal to q is linear in m: taken term by
        # term it is exactly 0 where all four gradients are one.
        q = flat(paired(g1, g3)[0]).lerp_(flat(paired(g3, g3)[0]), 1 - self.alpha)
        del g1
        first = without_(flat(paired(g0, g3)[0]), q)
        second = without_(flat(paired(g2, g3)[0]), q)
        d = q.add_(first, alpha=-self.gamma)
        return shaped(d.add_(second, alpha=-self.gamma * (1 - self.beta)), g3)

    def _gradients(self, oracle: GradientOracle) -> tuple[Gradients, ...]:
        g0 = oracle.grad(self.parameters)
        with self.perturbed(*along(self.masked(g0, oracle), self.radius), keep=True):
            g1 = oracle.grad(self.parameters)
        before, after = paired(g0, g1)
        rises = iter(torch._foreach_sub(after, before))
        difference = [None if t is None else next(rises) for t in g1]
        climb = self.masked(difference, oracle)
        with self.perturbed(*along(climb, self.grad_norm_rho)):
            g2 = oracle.grad(self.parameters)
            with self.perturbed(*along(self.masked(g2, oracle), self.radius), keep=True):
                g3 = oracle.grad(self.parameters)
        return g0, g1, g2, g3
