"""What variants that perturb the weights share: the radius in time, where, how often, on what."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.tensors import Ascent, Gradients, accumulate_
from samtune.optimizers.variant import Passes, Variant

_NORMALISATION = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


@dataclass(eq=False, kw_only=True)
class Scheduled(Variant):
    """A variant with a `radius`, the knob named by `radius_knob`, that a schedule may shrink."""

    radius_knob: ClassVar[str] = "rho"

    rho_schedule: str = knob(
        "constant",
        choices=("constant", "linear", "cosine", "lr"),
        doc="how the radius goes to rho_min: not at all, by budget spent, or as lr goes to 0",
        source="GSAM paper, section 4: the radius in proportion to lr",
    )
    rho_min: float = knob(
        0.0,
        low=0.0,
        safe=(0.0, 0.5),
        doc="radius at the end of the schedule; constant does not use it",
        source="GSAM paper, table 4: 0 to 0.2, or half of the first radius",
    )

    @property
    def radius(self) -> float:
        """rho_t: the radius at this point of the schedule, see `set_progress`."""
        first = float(getattr(self, self.radius_knob))
        match self.rho_schedule:
            case "linear":
                left = 1 - self.progress
            case "cosine":
                left = (1 + math.cos(math.pi * self.progress)) / 2
            case "lr":
                left = self.lr_share
            case _:
                return first
        return self.rho_min + (first - self.rho_min) * left


@dataclass(eq=False, kw_only=True)
class Perturbing(Scheduled):
    """A variant that asks for gradients at w + eps, with eps of size `radius`."""

    params: str = knob(
        "all",
        choices=("all", "norm", "no_norm"),
        doc="what is perturbed: all parameters, or only those of normalisation layers (SAM-ON), "
        "or only the others; norms run over the perturbed ones",
        source="Mueller et al., NeurIPS 2023, arXiv 2306.04226",
    )
    _of_norms: dict[Tensor, bool] = field(default_factory=dict, init=False, repr=False)

    def masked(self, g: Gradients, oracle: GradientOracle) -> Gradients:
        """The entries of g that `params` lets perturb, None in place of the others."""
        if self.params == "all":
            return g
        parameters = self.parameters
        if any(p not in self._of_norms for p in parameters):
            of_norms = _parameters_of_norms(oracle.model)
            self._of_norms = {p: p in of_norms for p in parameters}
        perturbed = [self._of_norms[p] == (self.params == "norm") for p in parameters]
        if not any(perturbed):
            raise ValueError(
                f"params is {self.params}, and the model has no such parameter to perturb; "
                "params: all perturbs every one"
            )
        return [d if own else None for d, own in zip(g, perturbed, strict=True)]


@dataclass(eq=False, kw_only=True)
class Sharpened(Perturbing):
    """A perturbing variant whose direction, `sharp`, may be taken on the batch or on chunks of it.

    With `m` the batch is split into chunks of nearly m samples; each is a small worker with its
    own perturbation (and, where the variant has state, its own state), and the directions are
    averaged, in the shares of their samples: the m-sharpness of the SAM paper.
    """

    m: int = knob(
        0,
        low=0,
        safe=(0, 4096),
        scale="log",
        doc="samples that share a perturbation; 0: the whole batch",
        source="SAM paper, section 3.1: 32, on eight workers of a batch of 256",
    )

    @abstractmethod
    def sharp(self, oracle: GradientOracle) -> Gradients:
        """The direction by this variant's equations, on the oracle's batch or chunk.

        `state` is never changed in place but assigned anew: a later chunk may end the step.
        """

    def direction(self, oracle: GradientOracle) -> Gradients:
        if not self.m:
            return self.sharp(oracle)
        shared, workers = self.state, list(self.state.get("chunks", ()))
        mean: Gradients = [None] * len(self.parameters)
        try:
            for k, chunk in enumerate(oracle.chunks(self.m)):
                self.state = dict(workers[k]) if k < len(workers) else {}
                accumulate_(mean, self.sharp(chunk), len(chunk) / len(oracle))
                workers[k : k + 1] = [self.state]
        finally:
            self.state = shared
        if any(workers):
            self.state["chunks"] = workers
        return mean


@dataclass(eq=False, kw_only=True)
class TwoPass(Sharpened):
    """A variant whose every step perturbs, or every `interval`-th; in between the base's step."""

    interval: int = knob(
        1,
        low=1,
        safe=(1, 10),
        scale="log",
        doc="steps per perturbed step, the last of each interval; the others are the base's own",
        source="Composer's SAM: 10 on ImageNet, with ten times the radius",
    )

    @classmethod
    def sharp_passes(cls, knobs: Mapping[str, Any]) -> Passes:
        """Return the forward and backward passes of a perturbed step."""
        return 2.0, 2.0

    @classmethod
    def passes_of(cls, knobs: Mapping[str, Any]) -> Passes:
        """Return the mean passes per step; a step without a perturbation takes one pass."""
        forward, backward = cls.sharp_passes(knobs)
        return 1 + (forward - 1) / knobs["interval"], 1 + (backward - 1) / knobs["interval"]

    def direction(self, oracle: GradientOracle) -> Gradients:
        if self.interval > 1:
            turn = self.state.get("turn", 0) % self.interval
            self.state["turn"] = turn + 1
            if turn < self.interval - 1:
                return oracle.grad(self.parameters)
        return super().direction(oracle)

    def sharp(self, oracle: GradientOracle) -> Gradients:
        """grad L_B(w + eps) with eps = ascent(grad L_B(w))."""
        g = oracle.grad(self.parameters)
        with self.perturbed(*self.ascent(self.masked(g, oracle), oracle)):
            return oracle.grad(self.parameters)

    def ascent(self, g: Gradients, oracle: GradientOracle) -> Ascent:
        """eps by this variant's equations; the tensors of g may be changed for it."""
        raise NotImplementedError


def _parameters_of_norms(model: nn.Module) -> set[Tensor]:
    return {
        p
        for module in model.modules()
        # Many libraries bring layers of their own, such as timm's and the LLMs' RMSNorm.
        if isinstance(module, _NORMALISATION) or "norm" in type(module).__name__.lower()
        for p in module.parameters(recurse=False)
    }
