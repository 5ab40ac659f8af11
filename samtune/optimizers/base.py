"""Base optimizers, which descend along a variant's direction: by name, or by the path of a class.

`sgd`, `adam` and `adamw` have knobs with ranges from the papers. Of any other optimizer,
`torch.optim.NAdam` or `pytorch_optimizer.Lion`, the knobs are read from its constructor.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from samtune.optimizers.groups import NEVER_BASES
from samtune.optimizers.knobs import Knob, KnobError, Scale, Value, nearest, reject_unknown
from samtune.optimizers.variant import Variant

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]
Place = tuple[str, int | None]
"""An argument of a constructor, and the index in it if the argument is a tuple."""

_IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable", "maximize"}
"""Arguments of torch's optimizers that choose how they compute, not what."""


@dataclass(frozen=True)
class BaseOptimizer:
    """An optimizer class with its knobs.

    Attributes:
        name: the word in a space file.
        kind: the class.
        knobs: the knobs by name.
        places: for each knob, the argument of the constructor that it sets.
    """

    name: str
    kind: type[torch.optim.Optimizer]
    knobs: Mapping[str, Knob]
    places: Mapping[str, Place]

    def check(self, knobs: Mapping[str, Value]) -> dict[str, Value]:
        """Return every knob with its value; a knob that is not given has its default.

        Raises:
            KnobError: A knob is unknown, or the optimizer does not work with these values.
        """
        reject_unknown(knobs, self.knobs, self.name)
        values = {name: k.check(knobs.get(name, k.default)) for name, k in self.knobs.items()}
        if self.name == "sgd" and values["nesterov"] and values["momentum"] == 0:
            raise KnobError(
                "nesterov is true and momentum is 0; Nesterov's step needs momentum above 0"
            )
        if self.name not in BASES:
            self._rehearse(values)
        return values

    def build(self, parameters: Parameters, **knobs: Value) -> torch.optim.Optimizer:
        """Return the optimizer over parameters or parameter groups, on torch's fastest kernels.

        Raises:
            KnobError: A knob is unknown, or the optimizer does not work with these values.
        """
        values = self.check(knobs)
        given = [
            {**p, "params": list(p["params"])} if isinstance(p, dict) else p for p in parameters
        ]
        flat = [p for g in given for p in (g["params"] if isinstance(g, dict) else [g])]
        how: dict[str, bool] = {}
        if self.name in BASES and all(
            p.is_floating_point() and p.device.type in {"cpu", "cuda"} for p in flat
        ):
            how = {"fused": True}
        elif self.kind.__module__.startswith("torch.optim") and _takes(self.kind, "foreach"):
            how = {"foreach": True}
        make: Any = self.kind
        made: torch.optim.Optimizer = make(given, **self._arguments(values), **how)
        if self.kind is torch.optim.SGD and how.get("fused") and values["momentum"]:
            made.register_step_pre_hook(_late_momentum)
        return made

    def _arguments(self, values: Mapping[str, Value]) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        for name, value in values.items():
            argument, index = self.places[name]
            if index is None:
                arguments[argument] = value
            else:
                arguments[argument] = (*arguments.get(argument, ()), value)
        return arguments

    def _rehearse(self, values: Mapping[str, Value]) -> None:
        """Raise KnobError unless the optimizer steps on a vector and a matrix."""
        vector, matrix = (torch.ones(shape, requires_grad=True) for shape in ((2,), (2, 2)))
        make: Any = self.kind
        try:
            with torch.random.fork_rng(devices=[]):
                made = make([vector, matrix], **self._arguments(values))
                vector.grad, matrix.grad = torch.ones(2), torch.ones(2, 2)
                made.step()
        except Exception as error:
            raise KnobError(f"{self.name} does not work as a base: {error}") from error


def base_of(variant: type[Variant], word: str) -> BaseOptimizer:
    """Return the base optimizer that a space names for a variant.

    Args:
        variant: the class of the variant.
        word: one of the variant's `bases`, or the path of a class, `torch.optim.NAdam`. A knob of
            such a class gets the prefix `base_` if the variant has a knob of that name.

    Raises:
        KnobError: The variant cannot have this base; the sentence names the nearest one.
    """
    if word in variant.bases:
        return BASES[word]
    if not variant.bases:
        raise KnobError(f"{variant.name} is an optimizer of its own and has no base")
    if not all(part.isidentifier() for part in word.split(".")) or "." not in word:
        raise KnobError(f"{variant.name} has no base {word!r}{_instead(variant, word)}")
    base = _by_path(word)
    if not issubclass(base.kind, variant.base_type):
        raise KnobError(
            f"{variant.name} has no base {word!r} (it has: {', '.join(variant.bases)})"
        )
    taken = variant.knobs()
    names = {name: f"base_{name}" if name in taken else name for name in base.knobs}
    knobs = {names[n]: replace(k, name=names[n]) for n, k in base.knobs.items()}
    return replace(base, knobs=knobs, places={names[n]: at for n, at in base.places.items()})


def _instead(variant: type[Variant], word: str) -> str:
    """Return a suggestion for a word that is neither a base nor a path."""
    if word.lower() in variant.bases:
        return nearest(word.lower(), variant.bases)
    same = [n for n in torch.optim.__all__ if n.lower() == word.lower().replace("_", "")]
    if same and variant.base_type is torch.optim.Optimizer:
        why = _why_never(getattr(torch.optim, same[0]))
        return f": {why}" if why else f"; write `base: torch.optim.{same[0]}`"
    any_other = ", or the path of a class, torch.optim.NAdam"
    known = ", ".join(variant.bases)
    known += any_other if variant.base_type is torch.optim.Optimizer else ""
    return nearest(word, variant.bases) or f" (it has: {known})"


@cache
def _by_path(path: str) -> BaseOptimizer:
    """Return the optimizer of a class, with the knobs that its constructor has."""
    module_name, _, name = path.rpartition(".")
    module = _module(module_name, path)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        optimizers = [
            word
            for word, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
        ]
        close = nearest(name, optimizers) or f" (it has: {', '.join(optimizers) or 'none'})"
        raise KnobError(f"{module_name} has no optimizer {name!r}{close}")
    if why := _why_never(found):
        raise KnobError(f"{path} cannot be a base: {why}")
    knobs, places = _knobs_of(found, path)
    return BaseOptimizer(path, found, knobs, places)


def _module(name: str, path: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if not name.startswith(missing):
            raise KnobError(f"base {path}: {name} cannot be imported: {error}") from error
        parent, dot, _ = missing.rpartition(".")
        places = importlib.import_module(parent).__path__ if parent else None
        known = [parent + dot + module.name for module in pkgutil.iter_modules(places)]
        raise KnobError(f"base {path}: no module {missing!r}{nearest(missing, known)}") from None
    except (Exception, SystemExit) as error:
        kind = type(error).__name__
        raise KnobError(f"base {path}: {name} cannot be imported: {kind}: {error}") from error


def _why_never(kind: type[torch.optim.Optimizer]) -> str:
    """Return why this class of optimizers cannot be a base, or nothing."""
    if issubclass(kind, Variant):
        return "it is a variant itself, and has a base of its own"
    for never, why in NEVER_BASES.items():
        if issubclass(kind, never):
            return why
    step = inspect.signature(kind.step).parameters
    if "closure" in step and step["closure"].default is inspect.Parameter.empty:
        return "its step needs a closure, and a variant gives its base one gradient"
    if callable(getattr(kind, "train", None)) and callable(getattr(kind, "eval", None)):
        return "it trains and evaluates at different weights, which a variant does not do"
    return ""


def _knobs_of(
    kind: type[torch.optim.Optimizer], path: str
) -> tuple[dict[str, Knob], dict[str, Place]]:
    """Return the knobs of a constructor, and the argument of each.

    An argument with a number, a text or a yes or no as its default is a knob. A tuple of numbers
    is a knob for each of them: `betas` is `beta1` and `beta2`. Others keep their defaults.
    """
    knobs: dict[str, Knob] = {}
    places: dict[str, Place] = {}
    first, *others = inspect.signature(kind).parameters.values()
    for argument in others:
        default = argument.default
        variadic = argument.kind in {argument.VAR_KEYWORD, argument.VAR_POSITIONAL}
        if variadic or argument.name in _IMPLEMENTATION:
            continue
        if default is argument.empty:
            raise KnobError(
                f"{path} cannot be a base: it needs {argument.name}, which a space cannot give"
            )
        several = isinstance(default, tuple) and bool(default)
        values = default if several else (default,)
        if not all(_is_value(value) for value in values):
            continue
        for index, value in enumerate(values):
            name = f"{argument.name.removesuffix('s')}{index + 1}" if several else argument.name
            of_float = "float" in str(argument.annotation) and not isinstance(value, bool | str)
            value = float(value) if of_float else value
            doc = f"{argument.name} of {path}"
            knobs[name] = Knob(name, type(value), value, doc, f"{kind.__name__}: {value}")
            places[name] = argument.name, index if several else None
    if first.name != "params" or "lr" not in knobs:
        raise KnobError(f"{path} cannot be a base: its arguments do not begin with params and lr")
    return knobs, places


def _is_value(value: object) -> bool:
    if isinstance(value, float | int):
        return math.isfinite(value)
    return isinstance(value, str)


def _takes(kind: type, argument: str) -> bool:
    return argument in inspect.signature(kind).parameters


def _late_momentum(sgd: torch.optim.Optimizer, *_: object) -> None:
    """Give a momentum of zeros to a parameter that gets its first gradient late.

    torch's fused SGD fails on such a parameter; with zeros its step equals the other kernels'.
    """
    if not sgd.state:
        return
    for group in sgd.param_groups:
        for p in group["params"]:
            if p.grad is not None and sgd.state[p].get("momentum_buffer") is None:
                sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)


_BELOW_ONE = math.nextafter(1.0, 0.0)


def _number(
    name: str,
    default: float,
    safe: tuple[float, float],
    scale: Scale,
    doc: str,
    source: str,
    high: float | None = None,
) -> Knob:
    return Knob(name, float, default, doc, source, 0.0, high, safe, scale)


_SGD = (
    _number("lr", 0.1, (1e-3, 1.0), "log", "learning rate", "SAM paper, C.1: 0.05 and 0.1"),
    _number("momentum", 0.9, (0.0, 0.99), "linear", "heavy-ball momentum", "SAM paper, C.1: 0.9"),
    _number(
        "weight_decay",
        5e-4,
        (0.0, 1e-2),
        "log",
        "L2 penalty, at the unperturbed weights",
        "SAM paper, C.1: 5e-4 and 1e-3",
    ),
    Knob(
        "nesterov",
        bool,
        False,
        "look ahead along the momentum",
        "google-research/sam: on; most PyTorch versions: off",
    ),
)
_ADAM = (
    _number("lr", 1e-3, (1e-5, 1e-2), "log", "learning rate", "torch: 1e-3"),
    _number("beta1", 0.9, (0.8, 0.99), "linear", "decay of the mean", "torch: 0.9", _BELOW_ONE),
    _number(
        "beta2", 0.999, (0.9, 0.9999), "linear", "decay of the square", "torch: 0.999", _BELOW_ONE
    ),
    _number("eps", 1e-8, (1e-10, 1e-4), "log", "added to the denominator", "torch: 1e-8"),
    _number("weight_decay", 0.0, (0.0, 1e-2), "log", "L2 penalty, as SGD's", "torch: 0"),
)
_ADAMW = (
    replace(_ADAM[0], source="GSAM paper, ViT: 3e-3"),
    *_ADAM[1:4],
    _number(
        "weight_decay",
        1e-2,
        (0.0, 0.5),
        "log",
        "decoupled decay, at the unperturbed weights",
        "torch: 0.01; LookSAM's ViT runs: 0.3",
    ),
)


def _described(
    name: str, kind: type[torch.optim.Optimizer], knobs: Iterable[Knob]
) -> BaseOptimizer:
    _, places = _knobs_of(kind, name)
    return BaseOptimizer(name, kind, {k.name: k for k in knobs}, places)


BASES: dict[str, BaseOptimizer] = {
    "sgd": _described("sgd", torch.optim.SGD, _SGD),
    "adamw": _described("adamw", torch.optim.AdamW, _ADAMW),
    "adam": _described("adam", torch.optim.Adam, _ADAM),
}
"""The base optimizers that have a short name in a space."""
