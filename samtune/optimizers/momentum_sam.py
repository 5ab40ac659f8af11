"""Momentum-SAM (Becker, Altrock and Risse, 2024, arXiv 2401.12033)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.tensors import Gradients, along
from samtune.optimizers.two_pass import Perturbing

_MOMENTUM = ("momentum_buffer", "exp_avg")


@dataclass(eq=False, kw_only=True)
class MomentumSAM(Perturbing):
    """SAM at the price of SGD: perturbs along the base optimizer's momentum v, not the gradient:

        d  = grad L_B(w - rho v / ||v||)        v = 0 before the first step: d = grad L_B(w)
        w <- Base(w, d)

    v is SGD's momentum buffer or Adam's first moment, as in the authors' code (MarlonBecker/MSAM).
    That code leaves the weights perturbed between steps; here they rest at w, where weight decay
    acts too. The only pass is at the perturbed weights: the step's loss and outputs belong to
    them, and so do BatchNorm's statistics. Without momentum in the base it is the base.
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
        v = [self._momentum(self.base.state.get(p, {})) for p in self.parameters]
        v = self.masked(v, oracle)
        if all(t is None for t in v):
            return oracle.grad(self.parameters)
        with self.perturbed(*along(v, -self.radius), keep=True):
            return oracle.grad(self.parameters)

    @staticmethod
    def _momentum(state: dict[str, Any]) -> Tensor | None:
        return next((state[name] for name in _MOMENTUM if state.get(name) is not None), None)
