"""Base of the variants that perturb the weights: the radius, and where and how often it acts."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from samtune.optimizers.groups import Group
from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.result import Passes
from samtune.optimizers.tensors import Ascent, Factor, Gradients, accumulate_, scaled
from samtune.optimizers.variant import Variant


@dataclass(eq=False, kw_only=True)
class Scheduled(Variant):
    """A variant with a radius, the knob named by `radius_knob`, that a schedule may shrink.

    A parameter group may have a radius of its own. Norms still run over all groups: eps of a
    group is its share of the largest radius.
    """

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
    held_radius: Tensor | None = field(default=None, init=False, repr=False)
    _first_lrs: list[float] = field(default_factory=list, init=False, repr=False)
    _warned: bool = field(default=False, init=False, repr=False)

    @classmethod
    def knobs_of_groups(cls) -> tuple[str, ...]:
        """Return the radius and its schedule."""
        return cls.radius_knob, "rho_schedule", "rho_min"

    @property
    def radius(self) -> float | Tensor:
        """The radius rho_t at this point of the schedule, the largest of all groups.

        Inside `Held.numbers` it is a tensor of shape ().
        """
        return max(self.radii) if self.held_radius is None else self.held_radius

    @property
    def radii(self) -> list[float]:
        """The radius rho_t of each parameter group."""
        return [self._radius_of(n, group) for n, group in enumerate(self.base.param_groups)]

    def ascended(
        self,
        d: Gradients,
        factor: Factor,
        *,
        keep: bool = False,
        radii: Sequence[float] | None = None,
    ) -> AbstractContextManager[None]:
        """Perturb the weights as `perturbed` does, each group by its share of the largest radius.

        Args:
            d: the direction, one entry for each of `weights`; where it is None, w stays.
            factor: the length of the step along d at the largest radius.
            keep: leave the tensors of d as they are.
            radii: a radius for each group; None takes `self.radii`.
        """
        radii = self.radii if radii is None else radii
        largest = max(radii)
        if min(radii) < largest:
            d = self._shares(d, [radius / largest for radius in radii])
            if isinstance(factor, tuple):
                pairs = zip(d, factor[1], strict=True)
                factor = factor[0], [None if t is None else each for t, each in pairs]
        return self.perturbed(d, factor, keep=keep)

    def value_in(self, group: Group, name: str) -> Any:
        """Return a knob's value for a parameter group: its own, or that of all groups."""
        own = name in group and name not in self.base.defaults
        return group[name] if own else getattr(self, name)

    def values(self, name: str) -> list[Any]:
        """Return a knob's value for each of `weights`."""
        groups = self.base.param_groups
        return [value for g in groups for value in [self.value_in(g, name)] * len(g["params"])]

    def expect_progress(self, what: str) -> None:
        """Warn once, if `set_progress` is never called, that `what` stays constant without it."""
        if self.lr_share is None and not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self).__name__}: {what} follows the progress of training, and nobody has "
                "called optimizer.set_progress(step / steps); it stays where it is at the start",
                stacklevel=4,
            )

    def _radius_of(self, number: int, group: Group) -> float:
        first = float(self.value_in(group, self.radius_knob))
        last = float(self.value_in(group, "rho_min"))
        match self.value_in(group, "rho_schedule"):
            case "linear":
                self.expect_progress("rho_schedule: linear")
                left = 1 - self.progress
            case "cosine":
                self.expect_progress("rho_schedule: cosine")
                left = (1 + math.cos(math.pi * self.progress)) / 2
            case "lr":
                left = self._share_of_lr(number, group)
            case _:
                return first
        return last + (first - last) * left

    def _share_of_lr(self, number: int, group: Group) -> float:
        """Return the learning rate as a share of its first value, or what `set_progress` says."""
        if self.lr_share is not None:
            return self.lr_share
        # Schedulers with a warm-up store the largest learning rate here.
        known = (group.get(word) for word in ("max_lr", "initial_lr"))
        first = next((float(lr) for lr in known if lr), self._first_lrs[number])
        return float(group["lr"]) / first if first else 1.0

    def _take_in_groups(self) -> None:
        super()._take_in_groups()
        for new in self.base.param_groups[len(self._first_lrs) :]:
            # Some optimizers choose their learning rate themselves.
            lr = new.get("lr")
            self._first_lrs.append(0.0 if lr is None else float(lr))

    def _shares(self, d: Gradients, shares: list[float]) -> Gradients:
        """Return the direction with the entries of each group times the group's share."""
        found: Gradients = []
        for group, share in zip(self.base.param_groups, shares, strict=True):
            part = d[len(found) : len(found) + len(group["params"])]
            if share == 0:
                found += [None] * len(part)
            else:
                found += part if share == 1 else scaled(part, share)
        return found


@dataclass(eq=False, kw_only=True)
class Perturbing(Scheduled):
    """A variant that uses gradients at w + eps, with eps of size `radius`."""

    params: str = knob(
        "all",
        choices=("all", "norm", "no_norm"),
        doc="what is perturbed: all parameters, or only those of normalisation layers (SAM-ON), "
        "or only the others; norms run over the perturbed ones",
        source="Mueller et al., NeurIPS 2023, arXiv 2306.04226",
    )
    _of_norms: dict[Tensor, bool] = field(default_factory=dict, init=False, repr=False)

    def masked(self, g: Gradients, oracle: GradientOracle) -> Gradients:
        """Return the entries of g that `params` perturbs, and None in place of the others."""
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
    """A perturbing variant that takes its direction, `sharp`, on the batch or on chunks of it.

    With `m` the batch is split into chunks of nearly m samples. Each chunk has its own
    perturbation (and, where the variant has memory, its own memory), and the directions are
    averaged, weighted by samples: the m-sharpness of the SAM paper.
    """

    m: int = knob(
        0,
        low=0,
        safe=(0, 4096),
        scale="log",
        doc="samples that share a perturbation, 2 at least with BatchNorm; 0: the whole batch",
        source="SAM paper, section 3.1: 32, on eight workers of a batch of 256",
    )

    @abstractmethod
    def sharp(self, oracle: GradientOracle) -> Gradients:
        """Return the direction by this variant's equations, on the oracle's batch or chunk.

        Never change `memory` in place. Assign new values, because a later chunk may end the step.
        """

    def direction(self, oracle: GradientOracle) -> Gradients:
        """Return the mean of `sharp` over the chunks, or `sharp` on the whole batch."""
        if not self.m:
            return self.sharp(oracle)
        shared, workers = self.memory, list(self.memory.get("chunks", ()))
        mean: Gradients = [None] * len(self.parameters)
        try:
            for k, chunk in enumerate(oracle.chunks(self.m)):
                self.memory = dict(workers[k]) if k < len(workers) else {}
                accumulate_(mean, self.sharp(chunk), len(chunk) / len(oracle))
                workers[k : k + 1] = [self.memory]
        finally:
            self.memory = shared
        if any(workers):
            self.memory["chunks"] = workers
        return mean


@dataclass(eq=False, kw_only=True)
class TwoPass(Sharpened):
    """A variant that perturbs in each `interval`-th step; its other steps are the base's."""

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
        """Return `sharp` in the last step of each interval, and the gradient at w in others."""
        if self.interval > 1:
            turn = self.memory.get("turn", 0)
            self.memory["turn"] = turn + 1
            if not self._perturbs(turn):
                return self.gradient(oracle)
        return super().direction(oracle)

    def kind(self) -> Hashable:
        """Return whether the next step perturbs."""
        return self._perturbs(self.memory.get("turn", 0))

    def _perturbs(self, turn: int) -> bool:
        return turn % self.interval == self.interval - 1

    def sharp(self, oracle: GradientOracle) -> Gradients:
        """Return grad L_B(w + eps) with eps = ascent(grad L_B(w))."""
        g = self.gradient(oracle)
        with self.ascended(*self.ascent(self.masked(g, oracle), oracle)):
            return self.gradient(oracle)

    def ascent(self, g: Gradients, oracle: GradientOracle) -> Ascent:
        """Return eps by this variant's equations; the tensors of g may be changed for it.

        A variant defines this method, or `sharp`.
        """
        name = type(self).__name__
        raise TypeError(
            f"{name} does not say how it perturbs: give it a method `ascent(self, g, oracle)` "
            "that returns eps, or one `sharp(self, oracle)` that returns the direction"
        )


def _parameters_of_norms(model: nn.Module) -> set[Tensor]:
    return {
        p
        for module in model.modules()
        # Many libraries have their own layers, such as those of timm, and RMSNorm in LLMs.
        if any("norm" in kind.__name__.lower() for kind in type(module).__mro__)
        for p in module.parameters(recurse=False)
    }
