"""What all variants share: knobs, the template of a step, and the second set of weights."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from samtune.optimizers.knobs import Knob as Knob
from samtune.optimizers.knobs import KnobError as KnobError
from samtune.optimizers.knobs import knob
from samtune.optimizers.knobs import nearest as nearest
from samtune.optimizers.knobs import reject_unknown as reject_unknown
from samtune.optimizers.oracle import GradientOracle, NonFiniteError
from samtune.optimizers.tensors import Factor, Gradients, global_norm, moved, over, scale_

Passes = tuple[float, float]
"""Forward and backward passes over the batch."""

NEVER_BASES: dict[type[torch.optim.Optimizer], str] = {
    torch.optim.LBFGS: "LBFGS evaluates the loss several times in a step of its own, where a "
    "variant hands its base one gradient",
    torch.optim.SparseAdam: "SparseAdam takes sparse gradients only, and a variant's are dense",
}
"""Optimizers of torch that no variant can have as its base, and why. The nearest is Adam."""


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a step saw: `loss` is a 0-dim tensor, the batch's mean at the weights before the step,
    and `outputs` (b, ...) belong to it; neither is synchronised. Costs are counted in samples.
    """

    loss: Tensor
    outputs: Tensor
    forward_samples: int
    backward_samples: int
    skipped: bool


@dataclass(eq=False)
class Variant(ABC):
    """An optimizer that asks an oracle for gradients, and holds a base optimizer that descends.

    A subclass is a dataclass whose `knob` fields are its settings, and one method, `direction`.
    Learning-rate schedulers drive `base`, `set_progress` drives the variant's own schedules; knobs
    are plain attributes and may change between steps. `seed` is of the variant's own randomness,
    which leaves the global generators alone.

    Raises KnobError for an unknown knob or an impossible value, TypeError for a wrong base.
    """

    name: ClassVar[str]
    bases: ClassVar[tuple[str, ...]] = ("sgd", "adamw", "adam")
    """The names that a space may give as the base, the default first; paths of classes too."""
    base_type: ClassVar[type[torch.optim.Optimizer]] = torch.optim.Optimizer

    base: torch.optim.Optimizer
    _: KW_ONLY
    clip: float = knob(
        0.0,
        low=0.0,
        safe=(0.0, 10.0),
        doc="largest global norm of the descent direction; 0 does not clip",
        source="google-research/sam clips the second pass at 5",
    )
    seed: int = field(default=0, repr=False)
    progress: float = field(default=0.0, init=False, repr=False)
    lr_share: float = field(default=1.0, init=False, repr=False)
    state: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    """What outlives a step: numbers, tensors, and lists that go with `parameters`."""

    def __new__(cls, *args: Any, **knobs: Any) -> Variant:
        settings = {f.name for f in dataclasses.fields(cls) if f.init and not f.metadata}
        reject_unknown(knobs.keys() - settings, cls.knobs(), cls.__name__)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if not isinstance(self.base, self.base_type):
            me, wanted = type(self).__name__, self.base_type.__name__
            example = "SGD" if wanted == "Optimizer" else wanted
            raise TypeError(
                f"the base of {me} must be a torch.optim.{wanted}, "
                f"not {type(self.base).__name__}: "
                f"{me}(torch.optim.{example}(model.parameters(), lr=...))"
            )
        for never, why in NEVER_BASES.items():
            if isinstance(self.base, never):
                raise TypeError(
                    f"{why}; the nearest base is Adam: "
                    f"{type(self).__name__}(torch.optim.Adam(model.parameters(), lr=...))"
                )
        if not self.parameters:
            raise ValueError(f"the base optimizer of {type(self).__name__} has no parameters")
        for name, about in self.knobs().items():
            setattr(self, name, about.check(getattr(self, name)))

    @classmethod
    def build(
        cls,
        parameters: Iterable[Tensor],
        make_base: Callable[[Iterable[Tensor]], torch.optim.Optimizer],
        *,
        n_data: int,
        **knobs: Any,
    ) -> Variant:
        """Return the variant over the parameters, as a training loop builds it.

        Args:
            parameters: what to train.
            make_base: returns a base optimizer over them; a variant without a base does not ask.
            n_data: samples in the training set.
            knobs: the variant's own, and `seed`.
        """
        return cls(make_base(parameters), **knobs)

    @classmethod
    def knobs(cls) -> dict[str, Knob]:
        """The knobs by name, the variant's own first, those shared by all last."""
        ancestry = [inspect.get_annotations(c) for c in cls.__mro__]
        fields = [f for f in dataclasses.fields(cls) if "knob" in f.metadata]
        fields.sort(key=lambda f: next(i for i, own in enumerate(ancestry) if f.name in own))
        return {f.name: Knob(f.name, _kind(f), **f.metadata["knob"]) for f in fields}

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters of all groups of the base optimizer, in their order."""
        return [p for group in self.base.param_groups for p in group["params"]]

    @classmethod
    def passes_of(cls, knobs: Mapping[str, Any]) -> Passes:
        """Return the mean forward and backward passes per step that all these knobs give."""
        return 1.0, 1.0

    @classmethod
    def see_of(cls, knobs: Mapping[str, Any]) -> float:
        """Return the SGD-epoch equivalents per epoch; a backward pass costs two forward passes."""
        forward, backward = cls.passes_of(knobs)
        return (forward + 2 * backward) / 3

    @property
    def passes(self) -> Passes:
        """The mean forward and backward passes over the batch per step, by theory."""
        return self.passes_of({name: getattr(self, name) for name in self.knobs()})

    @property
    def see_per_epoch(self) -> float:
        """The SGD-epoch equivalents per epoch, by theory."""
        return self.see_of({name: getattr(self, name) for name in self.knobs()})

    def set_progress(self, progress: float, lr_share: float | None = None) -> None:
        """Tells the schedules of the knobs where training stands; a loop calls it each step.

        `progress` goes from 0 to 1. `lr_share` is the learning rate as a share of its range,
        (lr - lr_min) / (lr_max - lr_min), by default a cosine of the progress.
        """
        self.progress = min(max(progress, 0.0), 1.0)
        cosine = (1 + math.cos(math.pi * self.progress)) / 2
        self.lr_share = cosine if lr_share is None else lr_share

    def generator(self, device: torch.device, *words: object) -> torch.Generator:
        """One that is a function of `seed` and the words; without words, of the draws so far.

        Those are counted in `state`, so that a resumed run draws the same, and so does the step
        after a skipped one.
        """
        if not words:
            words = ("draw", self.state.get("draws", 0))
            self.state["draws"] = self.state.get("draws", 0) + 1
        # torch's CPU generator reads only 32 bits of a seed, so these have to be mixed.
        mixed = random.Random(" ".join(map(str, (self.seed, *words)))).getrandbits(63)
        return torch.Generator(device).manual_seed(mixed)

    @abstractmethod
    def direction(self, oracle: GradientOracle) -> Gradients:
        """What the base optimizer descends along in place of a gradient, at the current weights.

        The tensors must be new. Entries of `state` may be assigned at any time, but changed in
        place only after the last pass, which may end the step.
        """

    @torch.no_grad()
    def step(self, oracle: GradientOracle) -> StepResult:
        """One step on the oracle's batch.

        Without `check_finite` nothing in it waits for the device, but where the method has to:
        AE-SAM, and over several processes those that choose samples or share parts of the batch.
        After an exception in a pass the weights, the model's buffers and `state` are as before.
        """
        if oracle.forward_samples:
            raise ValueError("an oracle serves one step; make a new GradientOracle for each batch")
        state = dict(self.state)
        skipped = False
        try:
            direction = oracle.shared(self.direction(oracle))
        except BaseException as error:
            self.state = state
            oracle.rollback()
            if not isinstance(error, NonFiniteError):
                raise
            skipped = True
        else:
            self.update(direction)
        finally:
            oracle.finish()
        assert oracle.loss is not None and oracle.outputs is not None
        return StepResult(
            oracle.loss, oracle.outputs, oracle.forward_samples, oracle.backward_samples, skipped
        )

    def update(self, direction: Gradients) -> None:
        """The base optimizer's step along the direction, which may be changed in place."""
        self.clip_(direction)
        for p, d in zip(self.parameters, direction, strict=True):
            p.grad = d
        self.base.step()
        for p in self.parameters:
            p.grad = None

    def clip_(self, direction: Gradients) -> None:
        """Shortens the direction to `clip`, in place."""
        if self.clip:
            scale_(direction, over(self.clip, global_norm(direction)).clamp(max=1.0))

    @contextmanager
    def perturbed(self, d: Gradients, factor: Factor, *, keep: bool = False) -> Iterator[None]:
        """Inside the block the weights are w + eps with eps = factor d, where d is not None;
        afterwards w, bit by bit, whatever happens.

        The tensors of d become the second set of weights, to which the parameters point
        meanwhile, and so are used up; `keep` makes new ones, as a factor for each tensor does.
        The first set stays untouched, so nothing is copied back.
        """
        pairs = [(p, t) for p, t in zip(self.parameters, d, strict=True) if t is not None]
        touched = [p for p, _ in pairs]
        first = [p.data for p in touched]
        second = moved(first, [t for _, t in pairs], factor, keep=keep) if pairs else []
        try:
            for p, w in zip(touched, second, strict=True):
                p.data = w
            yield
        finally:
            for p, w in zip(touched, first, strict=True):
                p.data = w

    def state_dict(self) -> dict[str, Any]:
        """Everything that outlives a step, the base optimizer's state included; no knobs."""
        return {"variant": self.name, "base": self.base.state_dict(), "state": dict(self.state)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict()`; the existing param_groups are changed in place.

        Raises ValueError when it was saved by another variant.
        """
        if saved.get("variant") != self.name:
            raise ValueError(
                f"this state was saved by {saved.get('variant', 'something else')!r}, "
                f"and this is {self.name!r}; load it into the same variant"
            )
        # torch keeps the tensors it is given, and the next step would change them in `saved`.
        saved = copy.deepcopy(dict(saved))
        groups = self.base.param_groups
        self.base.load_state_dict(saved["base"])
        for group, loaded in zip(groups, self.base.param_groups, strict=True):
            group.clear()
            group.update(loaded)
        self._numbers_as_saved(saved["base"])
        # torch puts new dicts in place of the old ones, which others may hold.
        self.base.param_groups = groups
        self.state = self._at_home(saved["state"])

    def _numbers_as_saved(self, base: Mapping[str, Any]) -> None:
        """Undoes what torch does to a base's numbers but `step`: it takes them for tensors like
        the parameter, of its dtype and on its device."""
        indices = (i for group in base["param_groups"] for i in group["params"])
        for index, p in zip(indices, self.parameters, strict=True):
            saved, loaded = base["state"].get(index, {}), self.base.state.get(p, {})
            for name in _NUMBERS & saved.keys():
                loaded[name] = saved[name].to(loaded["step"].device)

    def _at_home(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state with its tensors on the devices of the parameters."""
        found = dict(state)
        for name, value in state.items():
            if name == "chunks":
                found[name] = [self._at_home(chunk) for chunk in value]
            elif isinstance(value, list):
                pairs = zip(value, self.parameters, strict=True)
                found[name] = [s.to(p.device) if isinstance(s, Tensor) else s for s, p in pairs]
            elif isinstance(value, Tensor):
                found[name] = value.to(self.parameters[0].device)
        return found


_NUMBERS = {"mu_product", "eta", "mu"}
"""Of NAdam, and of ASGD."""

_KINDS: dict[str, type] = {"float": float, "int": int, "str": str, "bool": bool}


def _kind(f: dataclasses.Field[Any]) -> type:
    # Under `from __future__ import annotations` a field's type is its text.
    # Of `float | str` the first: a number that a word may stand in for.
    return f.type if isinstance(f.type, type) else _KINDS[str(f.type).split(" | ")[0]]
