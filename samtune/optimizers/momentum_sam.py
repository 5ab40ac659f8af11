"""Momentum-SAM (Becker, Altrock and Risse, 2024, arXiv 2401.12033)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.reals import real
from samtune.optimizers.tensors import Gradients, along
from samtune.optimizers.two_pass import Perturbing

_MOMENTUM = ("momentum_buffer", "exp_avg")


@dataclass(eq=False, kw_only=True)
class MomentumSAM(Perturbing):
    """SAM at the price of SGD: it perturbs along the base optimizer's momentum v.

        d  = grad L_B(w - rho v / ||v||)        v = 0 before the first step: d = grad L_B(w)
        w <- Base(w, d)

    v is SGD's momentum buffer or Adam's first moment, as in the authors' code (MarlonBecker/MSAM).
    That code leaves the weights perturbed between steps; here they are at w, where weight decay
    acts too. The only pass is at the perturbed weights: the step's loss and outputs belong to
    them, and so do BatchNorm's statistics. Without momentum in the base it is the base. Only that
    pass shows which weights the batch uses: the norm is over all that require a gradient.
    """

    name = "momentum_sam"

    rho: float = knob(
        3.0,
        low=0.0,
        safe=(0.3, 10.0),
        scale="log",
        doc="length of the perturbation, L2 norm in weight space; 0 gives the base optimizer",
        source="MarlonBecker/MSAM: 3 on CIFAR and ImageNet",
    )

    def direction(self, oracle: GradientOracle) -> Gradients:
        """Return grad L_B(w - rho v / ||v||)."""
        v = [self._momentum(p) for p in self.parameters]
        if any(t is not None for t in v):
            v = self.masked(v, oracle)
        if all(t is None for t in v):
            return self.gradient(oracle)
        with self.ascended(*along(v, -self.radius), keep=True):
            return self.gradient(oracle)

    def _momentum(self, p: Tensor) -> Tensor | None:
        """Return v of a parameter; None before its first step, and while it is frozen."""
        state = self.base.state.get(p, {}) if p.requires_grad else {}
        return next((real(state[n]) for n in _MOMENTUM if state.get(n) is not None), None)
