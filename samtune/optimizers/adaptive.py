"""Perturbations that scale with the weights, as ASAM's do (Kwon et al., arXiv 2102.11600)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.tensors import Ascent, Gradients, global_norm, over
from samtune.optimizers.two_pass import TwoPass


@dataclass(eq=False, kw_only=True)
class Scaling(TwoPass):
    """A two-pass variant with ASAM's operator T, which is made anew at each perturbation.

    T_i = |w_i| + eta    for weights; 1 for the others
    """

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

    def stretched(
        self, v: Gradients, oracle: GradientOracle, *, keep: bool = False
    ) -> tuple[Gradients, Tensor]:
        """Return T^2 v and ||T v||.

        Args:
            v: the direction, one entry for each of `weights`.
            oracle: names the parameters.
            keep: leave the tensors of v as they are; else they are changed.
        """
        scaled = self._scaled(oracle)
        own = [i for i, d in enumerate(v) if d is not None and scaled[i]]
        if not own:
            return v, global_norm(v)
        weights, etas = self.weights, self.values("eta")
        T = torch._foreach_abs([weights[i] for i in own])
        torch._foreach_add_(T, [etas[i] for i in own])
        d = [t for i in own if (t := v[i]) is not None]
        if keep:
            d = list(torch._foreach_mul(d, T))
            v = list(v)
            for i, t in zip(own, d, strict=True):
                v[i] = t
        else:
            torch._foreach_mul_(d, T)
        # First T v, whose norm is taken, then T^2 v.
        norm = global_norm(v)
        torch._foreach_mul_(d, T)
        return v, norm

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


@dataclass(eq=False, kw_only=True)
class Adaptive(Scaling):
    """A two-pass variant that perturbs along a direction v, and with `adaptive` as ASAM does.

    eps = rho v / ||v||,  or  rho T^2 v / ||T v||  with `adaptive`
    """

    adaptive: bool = knob(
        False,
        doc="perturb as ASAM, in proportion to the weights by T; rho is then about ten times as "
        "large. Without it eta and normalize_bias are not used",
        source="ASAM paper; davda54/sam has it as an option of SAM",
    )

    def steep(
        self, v: Gradients, oracle: GradientOracle, *, keep: bool = False
    ) -> tuple[Gradients, Tensor]:
        """Return v and ||v||, or T^2 v and ||T v|| with `adaptive`; see `stretched`."""
        if self.adaptive:
            return self.stretched(v, oracle, keep=keep)
        return v, global_norm(v)

    def along(self, v: Gradients, oracle: GradientOracle, *, keep: bool = False) -> Ascent:
        """Return the step of length rho along v as direction and factor; 0 where v is zero."""
        d, norm = self.steep(v, oracle, keep=keep)
        return d, over(self.radius, norm)
