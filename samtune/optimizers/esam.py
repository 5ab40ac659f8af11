"""Efficient SAM (Du et al., ICLR 2022, arXiv 2110.03141)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from samtune.optimizers.adaptive import Adaptive
from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.reals import real
from samtune.optimizers.result import Passes
from samtune.optimizers.tensors import Ascent, Gradients, alike, over, shaped


@dataclass(eq=False, kw_only=True)
class ESAM(Adaptive):
    """SAM that perturbs a random part of the weights and descends on a part of the batch.

        g   = grad L_B(w)
        eps = (rho / beta) M g / ||g||          M_i ~ Bernoulli(beta): random weights
        B+  = the ceil(gamma b) samples whose loss rises most from w to w + eps
        w  <- Base(w, grad L_B+(w + eps))       mean over B+: sharpness-sensitive data selection

    B+ has at least one sample, and two where the model has BatchNorm.

    With `swp_mode: tensor` the mask keeps or drops whole tensors. The first pass then computes the
    gradients of those kept only, and g and its norm are of those: ||eps|| is rho / beta. With
    `swp_mode: element` it is about rho / sqrt(beta), so the two need different radii.
    """

    name = "esam"

    rho: float = knob(
        0.05,
        low=0.0,
        safe=(0.01, 0.5),
        scale="log",
        doc="radius, L2 norm in weight space, before the division by beta",
        source="ESAM run.sh: 0.05 (ResNet-18), 0.1 (WRN), 0.2 (PyramidNet)",
    )
    beta: float = knob(
        0.5,
        low=1e-6,
        high=1.0,
        safe=(0.4, 1.0),
        doc="chance of a weight or tensor to be perturbed; 1 perturbs all",
        source="ESAM run.sh: 0.6 (ResNet-18), else 0.5",
    )
    gamma: float = knob(
        0.5,
        low=1e-6,
        high=1.0,
        safe=(0.3, 1.0),
        doc="share of the batch to descend on; 1 takes all and saves the choosing",
        source="ESAM run.sh: 0.5",
    )
    swp_mode: str = knob(
        "element",
        choices=("element", "tensor"),
        doc="what the mask drops: single weights, or whole tensors",
        source="element: ESAM paper; tensor: dydjw9/Efficient_SAM",
    )

    @classmethod
    def sharp_passes(cls, knobs: Mapping[str, Any]) -> Passes:
        """Return the passes: of the batch, to choose B+, and of B+."""
        gamma = knobs["gamma"]
        return 1 + (gamma < 1) + gamma, 1 + gamma

    @classmethod
    def uncaptured_of(cls, knobs: Mapping[str, Any]) -> str | None:
        """Return why a CUDA graph cannot hold steps with these knobs; None if it can."""
        if knobs["swp_mode"] == "tensor" and knobs["beta"] < 1:
            return "swp_mode tensor chooses other tensors in each step, which element does not"
        return super().uncaptured_of(knobs)

    def sharp(self, oracle: GradientOracle) -> Gradients:
        """Return grad L_B+(w + eps)."""
        d, factor = self._ascent(oracle)
        if self.gamma == 1:
            with self.ascended(d, factor):
                return self.gradient(oracle)
        clean = oracle.sample_losses
        with self.ascended(d, factor):
            losses = oracle.losses()
            assert clean is not None
            rise = losses - clean
            return self.gradient(oracle, oracle.largest(rise, self.gamma))

    def _ascent(self, oracle: GradientOracle) -> Ascent:
        """Return eps = (rho / beta) M g / ||g||."""
        if self.swp_mode == "tensor" and self.beta < 1:
            g = self._grad_of(self._drawn(self.masked([*self.parameters], oracle)), oracle)
        else:
            g = self.masked(self.gradient(oracle), oracle)
        d, norm = self.steep(g, oracle)
        if self.swp_mode == "element" and self.beta < 1:
            self._thin_(d)
        return d, over(self.radius / self.beta, norm)

    def _drawn(self, parameters: Gradients) -> Gradients:
        """Return the tensors to perturb, None in place of the others; one at least."""
        candidates = [i for i, p in enumerate(parameters) if p is not None and p.requires_grad]
        chance = torch.rand(len(candidates), generator=self.generator(torch.device("cpu")))
        # A pass needs at least one tensor. At usual values of beta this changes nothing.
        bound = max(self.beta, float(chance.min()))
        kept = {i for i, c in zip(candidates, chance.tolist(), strict=True) if c <= bound}
        return [p if i in kept else None for i, p in enumerate(parameters)]

    def _grad_of(self, kept: Gradients, oracle: GradientOracle) -> Gradients:
        found = iter(oracle.grad([p for p in kept if p is not None]))
        g = [None if p is None else next(found) for p in kept]
        return [None if d is None else real(d) for d in g]

    def _thin_(self, g: Gradients) -> None:
        """Multiply g by M, in place."""
        for group in alike(d for d in g if d is not None):
            size = sum(d.numel() for d in group)
            draws = torch.empty(size, dtype=group[0].dtype, device=group[0].device)
            # bernoulli_ takes three times as long on the CPU.
            draws.uniform_(generator=self.generator(draws.device)).lt_(self.beta)
            masks = [m for m in shaped(draws, group) if m is not None]
            torch._foreach_mul_(group, masks)
