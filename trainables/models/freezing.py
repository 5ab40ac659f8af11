"""Parameters that are not trained, for the whole budget or for its first part."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from samtune.trial import Value
from trainables.models.parts import BatchNorm, ModelError, is_batch_norm, some


def patterns(task: Mapping[str, Value]) -> list[str]:
    """Return the patterns of a task."""
    return [word.strip() for word in str(task["freeze"]).split(",") if word.strip()]


def frozen_for_good(task: Mapping[str, Value]) -> bool:
    """Return whether no frozen parameter of a task is ever trained."""
    return float(task["unfreeze_at"]) >= 1


def freeze(model: nn.Module, chosen: Sequence[str]) -> None:
    """Keep the matching parameters as they are: they get no gradient.

    A pattern is a parameter's name with `*` and `?`, or the name of a module that holds it.

    Raises:
        ModelError: A pattern matches no parameter, or all parameters are frozen.
    """
    parameters = dict(model.named_parameters())
    for name in matching(model, chosen):
        parameters[name].requires_grad_(False)
    if chosen and not any(parameter.requires_grad for parameter in parameters.values()):
        raise ModelError("freeze leaves no parameter to train; leave out the head's")


def matching(model: nn.Module, chosen: Sequence[str]) -> list[str]:
    """Return the names of the parameters that match a pattern, in the model's order.

    Raises:
        ModelError: A pattern matches none.
    """
    names = [name for name, _ in model.named_parameters()]
    found: set[str] = set()
    for pattern in chosen:
        own = {
            name
            for name in names
            if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")
        }
        if not own:
            raise ModelError(
                f"freeze: {pattern!r} matches no parameter (there are: {some(names)})"
            )
        found |= own
    return [name for name in names if name in found]


def trained(model: nn.Module, task: Mapping[str, Value]) -> list[Tensor]:
    """Return the parameters that are trained at some time, for the optimizer."""
    later = set() if frozen_for_good(task) else set(matching(model, patterns(task)))
    named = model.named_parameters()
    return [parameter for name, parameter in named if parameter.requires_grad or name in later]


class Frozen:
    """The frozen part of a model that `freeze` has been called on.

    What is frozen follows from the progress alone, so that a resumed trial needs no state of it.

    Args:
        model: the model.
        chosen: the patterns.
        until: the progress, from 0 to 1, from which on all is trained; 1 for never.
    """

    def __init__(self, model: nn.Module, chosen: Sequence[str], until: float) -> None:
        self._model = model
        self._until = until
        parameters = dict(model.named_parameters())
        self._parameters = [parameters[name] for name in matching(model, chosen)]
        self.norms = _norms_within(model, self._parameters)

    @classmethod
    def of(cls, task: Mapping[str, Value], model: nn.Module) -> Frozen:
        """Return what a task freezes."""
        return cls(model, patterns(task), float(task["unfreeze_at"]))

    def train(self) -> None:
        """Set the model to training mode, but the BatchNorm of the frozen part to evaluation."""
        self._model.train()
        for norm in self.norms:
            norm.eval()

    def thaw(self, progress: float) -> None:
        """Unfreeze all parameters once the progress has reached `until`."""
        # Counted in floats, as schedules are.
        if not self._parameters or self._until >= 1 or progress < self._until - 1e-9:
            return
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        self._parameters, self.norms = [], []
        self.train()


def _norms_within(model: nn.Module, frozen: Sequence[Tensor]) -> list[BatchNorm]:
    """Return the frozen BatchNorm layers; one without weights follows the module around it."""
    modules, ids = dict(model.named_modules()), {id(parameter) for parameter in frozen}
    found = []
    for name, module in modules.items():
        if not is_batch_norm(module):
            continue
        around = name
        while not (own := list(modules[around].parameters())) and around:
            around = around.rpartition(".")[0]
        if own and all(id(parameter) in ids for parameter in own):
            found.append(module)
    return found
