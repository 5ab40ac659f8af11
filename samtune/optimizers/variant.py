"""Base of all variants: the step, knobs, parameter groups, and saved state."""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from samtune.optimizers.batch import Index
from samtune.optimizers.closure import ClosureOracle
from samtune.optimizers.finite import NonFiniteError
from samtune.optimizers.groups import Group, check_base, check_groups, check_values
from samtune.optimizers.knobs import Knob as Knob
from samtune.optimizers.knobs import KnobError as KnobError
from samtune.optimizers.knobs import knob, knobs_of
from samtune.optimizers.knobs import nearest as nearest
from samtune.optimizers.knobs import reject_unknown as reject_unknown
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.over_base import OverBase
from samtune.optimizers.reals import real, unreal
from samtune.optimizers.result import Passes, StepResult
from samtune.optimizers.saved import load_in_place, on_devices
from samtune.optimizers.tensors import Gradients, global_norm, laid_out, over, scale_

HOW_TO_STEP = (
    "call optimizer.step(closure) with a closure that calls optimizer.zero_grad(), computes the "
    "loss, calls loss.backward() and returns the loss; or call "
    "optimizer.step(GradientOracle(model, inputs, targets, loss_fn))"
)


@dataclass(eq=False)
class Variant(OverBase, ABC):
    """An optimizer that asks for gradients, and has a base optimizer that descends.

    A subclass is a dataclass. Its `knob` fields are its settings, and its method `direction` is
    its equations. Knobs are attributes and may change between steps.

    The variant is a `torch.optim.Optimizer` whose parameter groups, state and defaults are those
    of its base, so a learning-rate scheduler may drive either of them.

    Args:
        base: the base optimizer, over the parameters to train.
        seed: of the variant's own random numbers; it leaves the global generators alone.

    Raises:
        KnobError: A knob is unknown or has an impossible value.
        TypeError: The base cannot be one.
        ValueError: The base's parameter groups have a parameter twice or an impossible word.
    """

    name: ClassVar[str]
    bases: ClassVar[tuple[str, ...]] = ("sgd", "adamw", "adam")
    """The names that a space may give as the base, the default first; paths of classes too."""
    base_type: ClassVar[type[torch.optim.Optimizer]] = torch.optim.Optimizer
    # With this a GradScaler passes its scale on, as for torch's fused optimizers.
    _step_supports_amp_scaling = True

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
    memory: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    """State for the next step: numbers, tensors, and lists in the order of `weights`."""
    progress: float = field(default=0.0, init=False, repr=False)
    lr_share: float | None = field(default=None, init=False, repr=False)
    seeded: bool = field(default=False, init=False, repr=False)
    _generators: dict[torch.device, torch.Generator] = field(
        default_factory=dict, init=False, repr=False
    )
    _known: int = field(default=0, init=False, repr=False)
    _groups: int = field(default=0, init=False, repr=False)

    def __new__(cls, *args: Any, **knobs: Any) -> Variant:
        """Return a variant that is not set up yet, if it has these knobs."""
        settings = {f.name for f in dataclasses.fields(cls) if f.init and not f.metadata}
        reject_unknown(knobs.keys() - settings, cls.knobs(), cls.__name__)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if isinstance(self.base, Variant):
            raise TypeError(
                f"the base of {type(self).__name__} is a {type(self.base).__name__}, which has a "
                "base of its own; one variant is enough"
            )
        check_base(type(self).__name__, self.base, self.base_type)
        for name, about in self.knobs().items():
            setattr(self, name, about.check(getattr(self, name)))
        # torch's way to set up an optimizer that has its groups and state already.
        super().__setstate__({})
        self._take_in_groups()

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
            parameters: the parameters to train.
            make_base: returns a base optimizer over them; not called for a variant without a base.
            n_data: samples in the training set.
            knobs: the variant's own, and `seed`.
        """
        return cls(make_base(parameters), **knobs)

    @classmethod
    def knobs(cls) -> dict[str, Knob]:
        """Return the knobs by name, the variant's own first, those of all variants last."""
        return knobs_of(cls)

    @classmethod
    def knobs_of_groups(cls) -> tuple[str, ...]:
        """Return the names of the knobs that a parameter group may have for itself."""
        return ()

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
        forward, backward = self.passes
        return (forward + 2 * backward) / 3

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters to the base, for the steps to come."""
        self.base.add_param_group(param_group)
        self._take_in_groups()

    def set_progress(self, progress: float, lr_share: float | None = None) -> None:
        """Set the point that training has reached, for schedules of knobs; call it each step.

        Args:
            progress: from 0 to 1.
            lr_share: the learning rate as a share of its range, (lr - lr_min) / (lr_max - lr_min);
                by default a cosine of the progress.
        """
        self.progress = min(max(progress, 0.0), 1.0)
        cosine = (1 + math.cos(math.pi * self.progress)) / 2
        self.lr_share = cosine if lr_share is None else lr_share

    def generator(self, device: torch.device, *words: object) -> torch.Generator:
        """Return the random generator of the device, seeded by `seed` and the words alone.

        Each call seeds it anew. Without words the seed depends on the number of calls so far,
        which `memory` keeps: a resumed run draws the same numbers, and so does the step after a
        skipped one. A step that is `seeded` draws from the generator as it is.
        """
        if self.seeded:
            return self._generators[device]
        if not words:
            words = ("draw", self.memory.get("draws", 0))
            self.memory["draws"] = self.memory.get("draws", 0) + 1
        # torch's CPU generator reads only 32 bits of a seed, so these have to be mixed.
        mixed = random.Random(" ".join(map(str, (self.seed, *words)))).getrandbits(63)
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        return self._generators[device].manual_seed(mixed)

    @classmethod
    def uncaptured_of(cls, knobs: Mapping[str, Any]) -> str | None:
        """Return why a CUDA graph cannot hold steps with these knobs; None if it can.

        A class of your own must override this. Its steps must not depend on data, nor on numbers
        in `memory` other than counts that grow by the same amount in steps of one `kind`.
        """
        if cls.__module__.startswith("samtune."):
            return None
        return f"{cls.__name__} does not say by a method `uncaptured_of` of its own that it can"

    @property
    def uncaptured(self) -> str | None:
        """Why a CUDA graph cannot hold this variant's steps; None if it can."""
        why = self.uncaptured_of({name: getattr(self, name) for name in self.knobs()})
        fused = all(group.get("fused") for group in self.base.param_groups)
        if why is None and self.bases and not fused:
            why = f"its base, {type(self.base).__name__}, is none of {', '.join(Variant.bases)}"
        return why

    def kind(self) -> Hashable | None:
        """Return the kind of the next step; None for a step that no CUDA graph can hold.

        Steps of one kind, with `memory` in the same form, make the same operations.
        """
        return ()

    def gradient(self, oracle: GradientOracle, index: Index | None = None) -> Gradients:
        """Return the gradient at the current weights, a new tensor for each of `weights`.

        Args:
            oracle: the source of gradients.
            index: the samples of the batch to take the mean over; None takes all.

        Raises:
            ValueError: The loss depends on no parameter.
        """
        found = oracle.grad(self.parameters, index)
        if all(g is None for g in found):
            raise ValueError(
                f"the loss depends on no parameter of {type(self).__name__}; give its base the "
                "parameters of the model that is trained"
            )
        return [None if g is None else real(g) for g in found]

    @abstractmethod
    def direction(self, oracle: GradientOracle) -> Gradients:
        """Return the direction that the base optimizer uses in place of a gradient.

        The tensors must be new, and None where this step has no gradient. Entries of `memory` may
        be assigned at any time, but changed in place only after the last pass, which may end the
        step.
        """

    @torch.no_grad()
    def step(self, closure: GradientOracle | Callable[[], Any] | None = None) -> Any:
        """Make one step.

        Without `check_finite` the host does not wait for the device, unless the method needs it:
        AE-SAM, and over several processes those that choose samples or share parts of the batch.
        An exception in a pass leaves weights, buffers and `memory` as they were.

        Args:
            closure: a GradientOracle, or torch's usual closure, which clears the gradients,
                computes the loss, calls backward() and returns the loss. The closure is called
                once per pass.

        Returns:
            A StepResult for an oracle; for a closure, the value that its first call returned.

        Raises:
            ClosureError: The variant needs more than a closure can give.
        """
        if closure is None:
            raise TypeError(f"{type(self).__name__} computes gradients itself: {HOW_TO_STEP}")
        if isinstance(closure, GradientOracle):
            oracle = closure
            if oracle.forward_samples:
                raise ValueError("an oracle serves one step; make a new GradientOracle per batch")
        elif not callable(closure):
            raise TypeError(
                f"{type(self).__name__}.step takes an oracle or a closure, not {closure!r}: "
                f"{HOW_TO_STEP}"
            )
        else:
            # A GradScaler's step stores these two in the optimizer.
            scale, overflow = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
            if overflow is not None and bool(overflow):
                return None
            oracle = ClosureOracle(closure, type(self).__name__, self.parameters, scale)
        self._take_in_groups()
        if not any(p.requires_grad for p in self.parameters):
            raise ValueError(
                f"every parameter of {type(self).__name__} is frozen (requires_grad is False), so "
                "there is nothing to train"
            )
        skipped = not self._descend(oracle)
        if isinstance(oracle, ClosureOracle):
            return oracle.result
        assert oracle.loss is not None
        return StepResult(
            oracle.loss,
            oracle.outputs,
            oracle.forward_samples,
            oracle.backward_samples,
            skipped,
            oracle.sharp_loss,
            oracle.cosine,
        )

    def _descend(self, oracle: GradientOracle) -> bool:
        """Update the weights; return False if a loss or gradient is not finite."""
        memory = dict(self.memory)
        try:
            direction = oracle.shared(self.direction(oracle))
        except BaseException as error:
            self.memory = memory
            oracle.rollback()
            if not isinstance(error, NonFiniteError):
                raise
            return False
        else:
            self.update(direction)
            return True
        finally:
            oracle.finish()

    def update(self, direction: Gradients) -> None:
        """Step the base optimizer along the direction, which may be changed in place."""
        self.clip_(direction)
        for p, d in zip(self.parameters, direction, strict=True):
            # A direction from memory may come from a checkpoint with another layout.
            p.grad = None if d is None else unreal(laid_out(d, p) if d.dim() == p.dim() else d, p)
        self.base.step()
        for p in self.parameters:
            p.grad = None

    def clip_(self, direction: Gradients) -> None:
        """Shorten the direction to `clip`, in place."""
        if self.clip:
            scale_(direction, over(self.clip, global_norm(direction)).clamp(max=1.0))

    def state_dict(self) -> dict[str, Any]:
        """Return the state in torch's form: that of the base, and `memory`, without knobs.

        The words `variant` and `memory` stand beside torch's `state` and `param_groups`.
        """
        own = {"variant": self.name, "memory": dict(self.memory)}
        return {**self.base.state_dict(), **super().state_dict(), **own}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Load a `state_dict()`; the existing parameter groups are changed in place.

        Raises:
            ValueError: Another variant saved it, or a group has an impossible value.
        """
        if saved.get("variant") != self.name:
            raise ValueError(
                f"this state was saved by {saved.get('variant', 'something else')!r}, "
                f"and this is {self.name!r}; load it into the same variant"
            )
        # torch keeps the tensors it is given, and the next step would change them in `saved`.
        of_base = copy.deepcopy(dict(saved))
        memory = of_base.pop("memory")
        own = self._own_knobs()
        check_values(of_base["param_groups"], self.knobs(), own)
        load_in_place(self.base, of_base, own)
        self.memory = on_devices(memory, self.parameters)

    def __getstate__(self) -> dict[str, Any]:
        # torch's own keeps the groups only. A scheduler's wrapper of `step` must not be copied.
        state = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "_"}
        # Every draw seeds its generator, so a copy makes generators of its own.
        return {**state, "_generators": {}}

    def first_step(self, *_: Any, **__: Any) -> NoReturn:
        """Raise TypeError: a variant makes both passes of SAM in one call of `step`."""
        raise TypeError(
            f"{type(self).__name__} makes all its passes in one call, in place of first_step and "
            f"second_step: {HOW_TO_STEP}"
        )

    second_step = first_step

    def _own_knobs(self) -> tuple[str, ...]:
        """Return the knobs that a group may have, except those with a name that the base uses."""
        return tuple(k for k in self.knobs_of_groups() if k not in self.base.defaults)

    def _take_in_groups(self) -> None:
        """Check the groups if there are new ones, and make room for them in `memory`."""
        if self._known == len(self.parameters):
            return
        groups, of_base, own = self.base.param_groups, self.base.defaults, self._own_knobs()
        check_groups(type(self).__name__, groups, of_base, self.knobs(), own, self._groups)
        self._known, self._groups = len(self.parameters), len(groups)
        for memory in (self.memory, *self.memory.get("chunks", ())):
            for name, value in memory.items():
                if isinstance(value, list) and name != "chunks":
                    memory[name] = value + [None] * (self._known - len(value))
