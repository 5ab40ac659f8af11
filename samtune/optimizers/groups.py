"""Checks of a variant's base optimizer and its parameter groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from samtune.optimizers.knobs import Knob, KnobError, nearest

Group = dict[str, Any]

_OF_OTHERS = {
    *("params", "param_names", "name", "step"),
    *("initial_lr", "swa_lr", "lr_scale", "max_lr", "min_lr", "max_momentum", "base_momentum"),
}
"""Words that torch, other optimizers, learning-rate schedulers and loggers put into groups."""

_IMPOSSIBLE = {
    "maximize": "a variant descends only; give it the loss with the opposite sign, "
    "`lambda outputs, targets: -loss_fn(outputs, targets)`",
    "differentiable": "a variant's step keeps no graph to differentiate through",
}


NEVER_BASES: dict[type[torch.optim.Optimizer], str] = {
    torch.optim.LBFGS: "LBFGS evaluates the loss several times in a step of its own, but a "
    "variant gives its base one gradient",
    torch.optim.SparseAdam: "SparseAdam takes sparse gradients only, but a variant's are dense",
}
"""Optimizers of torch that no variant can use as its base, with the reasons."""


def check_base(
    owner: str, base: torch.optim.Optimizer, base_type: type[torch.optim.Optimizer]
) -> None:
    """Check that the optimizer can be the base of a variant.

    Args:
        owner: the variant's class, for messages.
        base: the optimizer.
        base_type: the required class.

    Raises:
        TypeError: It is not of that class, or no variant can use it.
        ValueError: It has no parameters.
    """
    if not isinstance(base, base_type):
        wanted = base_type.__name__
        example = "SGD" if wanted == "Optimizer" else wanted
        raise TypeError(
            f"the base of {owner} must be a torch.optim.{wanted}, not {type(base).__name__}: "
            f"{owner}(torch.optim.{example}(model.parameters(), lr=...))"
        )
    for never, why in NEVER_BASES.items():
        if isinstance(base, never):
            raise TypeError(
                f"{why}; the nearest base is Adam: "
                f"{owner}(torch.optim.Adam(model.parameters(), lr=...))"
            )
    if not any(group["params"] for group in base.param_groups):
        raise ValueError(f"the base optimizer of {owner} has no parameters")


def check_groups(
    owner: str,
    groups: Sequence[Group],
    of_base: Iterable[str],
    knobs: Mapping[str, Knob],
    own: Iterable[str],
    checked: int,
) -> None:
    """Check the groups, and convert the values of their knobs to their types.

    Args:
        owner: the variant's class, for messages.
        groups: the base optimizer's parameter groups.
        of_base: words that the base optimizer understands.
        knobs: the variant's knobs.
        own: the knobs that a group may set for itself.
        checked: the groups that were checked before; their base may have added words since.

    Raises:
        ValueError: A parameter occurs twice, or a group has an unknown word or an invalid value.
    """
    _check_parameters(groups)
    known = {*_OF_OTHERS, *of_base, *own}
    for number, group in enumerate(groups[checked:], start=checked):
        for word in sorted(group.keys() - known):
            if word in knobs:
                raise KnobError(
                    f"parameter group {number} has {word}, which {owner} has for all groups "
                    f"alike: {owner}(base, {word}={group[word]!r})"
                )
            raise KnobError(
                f"parameter group {number} has the unknown word {word!r}"
                f"{nearest(word, known)} (it may have: {', '.join(sorted(known - _OF_OTHERS))})"
            )
        _check_options(number, group, owner)
    check_values(groups, knobs, own)


def check_values(groups: Sequence[Group], knobs: Mapping[str, Knob], own: Iterable[str]) -> None:
    """Convert the groups' knobs to their types. Raise KnobError where a value does not fit."""
    own = tuple(own)
    for number, group in enumerate(groups):
        for word in own:
            if word in group:
                try:
                    group[word] = knobs[word].check(group[word])
                except KnobError as error:
                    raise KnobError(f"parameter group {number}: {error}") from error


def _check_options(number: int, group: Group, owner: str) -> None:
    """Raise ValueError for an option of the base with which a variant cannot work."""
    for word, why in _IMPOSSIBLE.items():
        if group.get(word):
            raise ValueError(f"the base of {owner} has {word}=True in group {number}: {why}")
    if group.get("capturable") and any(p.device.type == "cpu" for p in group["params"]):
        raise ValueError(
            f"the base of {owner} has capturable=True in group {number}, whose parameters are on "
            "the CPU; CUDA graphs capture steps on a GPU only, so leave it out"
        )


def _check_parameters(groups: Sequence[Group]) -> None:
    """Raise ValueError where two entries of the groups are one tensor."""
    seen: dict[Any, str] = {}
    for number, group in enumerate(groups):
        names = group.get("param_names") or []
        for place, p in enumerate(group["params"]):
            name = names[place] if place < len(names) else f"parameter {place} of group {number}"
            here = f"{name}, shape {tuple(p.shape)},"
            # Two parameters may share their memory, too. An empty one has none.
            keys: list[Any] = [id(p)]
            if p.numel():
                storage = p.untyped_storage()
                keys.append((storage, p.storage_offset(), tuple(p.shape), p.stride()))
            for key in keys:
                if key in seen:
                    raise ValueError(
                        f"{here} is the same tensor as {seen[key]} and would be perturbed twice; "
                        "list tied weights once: list(dict.fromkeys(parameters))"
                    )
            seen |= dict.fromkeys(keys, here.rstrip(","))
