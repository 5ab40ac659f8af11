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
    """SAM in a neighbourhood that scales with the weights, so that rescaling them changes nothing.

        T_i = |w_i| + eta                   for weights, anew in each step; 1 for the others
        eps = rho T^2 g / ||T g||           so that ||eps / T|| = rho; one norm over all parameters
        w  <- Base(w, grad L_B(w + eps))

    `rho` is relative to the weights: about ten times SAM's. A parameter group may have its own
    `rho`, `eta` and `normalize_bias`.
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

    @classmethod
    def knobs_of_groups(cls) -> tuple[str, ...]:
        """Return the radius and its schedule, and what T is made of."""
        return (*super().knobs_of_groups(), "eta", "normalize_bias")

    def ascent(self, g: Gradients, oracle: GradientOracle) -> Ascent:
        """Return eps = rho T^2 g / ||T g||."""
        scaled = self._scaled(oracle)
        own = [i for i, d in enumerate(g) if d is not None and scaled[i]]
        if not own:
            return along(g, self.radius)
        weights, etas = self.weights, self.values("eta")
        T = torch._foreach_abs([weights[i] for i in own])
        torch._foreach_add_(T, [etas[i] for i in own])
        # In place on the tensors of g: first T g, whose norm is taken, then T^2 g.
        d = [t for i in own if (t := g[i]) is not None]
        torch._foreach_mul_(d, T)
        norm = global_norm(g)
        torch._foreach_mul_(d, T)
        return g, over(self.radius, norm)

    def _scaled(self, oracle: GradientOracle) -> list[bool]:
        """Return for each parameter whether T scales it."""
        parameters, words = self.parameters, self.values("normalize_bias")
        if "official" in words and any(p not in self._names for p in parameters):
            names: dict[Tensor, str] = {p: name for name, p in oracle.model.named_parameters()}
            # A parameter outside the model, of the loss for instance, has no name.
            self._names = {p: names.get(p, "") for p in parameters}
        return [
            word == "all" or "weight" in self._names[p]
            for p, word in zip(parameters, words, strict=True)
        ]
