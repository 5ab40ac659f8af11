"""Adaptive SAM (Kwon et al., ICML 2021, arXiv 2102.11600)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.tensors import Ascent, Gradients, along, global_norm, over
from samtune.optimizers.two_pass import TwoPass


@dataclass(eq=False, kw_only=True)
class ASAM(TwoPass):
    """SAM in a neighbourhood that scales with the weights, so that rescaling them changes nothing:

        T_i = |w_i| + eta                   for weights, anew in each step; 1 for the others
        eps = rho T^2 g / ||T g||           so that ||eps / T|| = rho; one norm over all parameters
        w  <- Base(w, grad L_B(w + eps))

    `rho` is relative to the weights: about ten times SAM's.
    """

    name = "asam"

    rho: float = knob(
        0.5,
        low=0.0,
        safe=(0.05, 5.0),
        scale="log",
        doc="radius of the neighbourhood, L2 norm of eps / T; 0 gives the base optimizer",
        source="ASAM paper: 0.5 on CIFAR-10, 1 on CIFAR-100 and ImageNet, grid up to 2",
    )
    eta: float = knob(
        0.01,
        low=0.0,
        safe=(0.0, 0.01),
        doc="added to |w| in T; at 0 a weight of 0 is never perturbed",
        source="ASAM paper: 0.01",
    )
    normalize_bias: str = knob(
        "official",
        choices=("official", "all"),
        doc="official: T = 1 unless the parameter's name contains 'weight'; all: T = |w| + eta",
        source="official: SamsungLabs/ASAM; all: davda54/sam",
    )
    _names: dict[Tensor, str] = field(default_factory=dict, init=False, repr=False)

    def ascent(self, g: Gradients, oracle: GradientOracle) -> Ascent:
        scaled = [
            (w.detach(), d)
            for w, d in zip(self.parameters, g, strict=True)
            if d is not None and self._is_scaled(w, oracle)
        ]
        if not scaled:
            return along(g, self.radius)
        T = torch._foreach_abs([w for w, _ in scaled])
        torch._foreach_add_(T, self.eta)
        # In place on the tensors of g: first T g, whose norm is taken, then T^2 g.
        torch._foreach_mul_([d for _, d in scaled], T)
        norm = global_norm(g)
        torch._foreach_mul_([d for _, d in scaled], T)
        return g, over(self.radius, norm)

    def _is_scaled(self, w: Tensor, oracle: GradientOracle) -> bool:
        if self.normalize_bias == "all":
            return True
        if w not in self._names:
            self._names = {p: name for name, p in oracle.model.named_parameters()}
            # A parameter outside the model, of the loss for instance, has no name.
            self._names = {p: self._names.get(p, "") for p in self.parameters}
        return "weight" in self._names[w]
