"""Base optimizers by name: what descends, with the knobs that a search may turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from samtune.optimizers.variant import (
    NEVER_BASES,
    Knob,
    KnobError,
    Scale,
    Value,
    Variant,
    reject_unknown,
)

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]


@dataclass(frozen=True)
class BaseOptimizer:
    """An optimizer of `torch.optim` as a space names it."""

    name: str
    knobs: Mapping[str, Knob]
    make: Callable[..., torch.optim.Optimizer]
    has_fused: bool = True

    def check(self, knobs: Mapping[str, Value]) -> dict[str, Value]:
        """Every knob, those left out by default. Raises KnobError where they cannot be."""
        reject_unknown(knobs, self.knobs, self.name)
        values = {name: k.check(knobs.get(name, k.default)) for name, k in self.knobs.items()}
        if values.get("nesterov") and values["momentum"] == 0:
            raise KnobError(
                "nesterov is true and momentum is 0; Nesterov's step needs momentum above 0"
            )
        return values

    def build(self, parameters: Parameters, **knobs: Value) -> torch.optim.Optimizer:
        """The optimizer over parameters or param groups, on torch's fastest kernels for them.

        A knob left out has its default. Raises KnobError for an unknown knob or impossible value.
        """
        values = self.check(knobs)
        given = [
            {**p, "params": list(p["params"])} if isinstance(p, dict) else p for p in parameters
        ]
        flat = [p for g in given for p in (g["params"] if isinstance(g, dict) else [g])]
        fused = self.has_fused and all(
            p.is_floating_point() and p.device.type in {"cpu", "cuda"} for p in flat
        )
        return self.make(given, **values, **({"fused": True} if fused else {"foreach": True}))


def _sgd(
    parameters: Any,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    **how: bool,
) -> torch.optim.SGD:
    sgd = torch.optim.SGD(
        parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, **how
    )
    if how.get("fused") and momentum:
        sgd.register_step_pre_hook(_late_momentum)
    return sgd


def _late_momentum(sgd: torch.optim.Optimizer, *_: object) -> None:
    """torch's fused SGD fails on a parameter whose first gradient comes after the first step;
    a buffer of zeros gives it the same step that the other kernels make."""
    if not sgd.state:
        return
    for group in sgd.param_groups:
        for p in group["params"]:
            if p.grad is not None and sgd.state[p].get("momentum_buffer") is None:
                sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)


def _with_beta2(make: Callable[..., torch.optim.Optimizer], theirs: str) -> Callable[..., Any]:
    # torch's alpha and rho are names that variants have for something else.
    def made(parameters: Any, *, beta2: float, **settings: Any) -> Any:
        return make(parameters, **{theirs: beta2}, **settings)

    return made


def _with_betas(make: Callable[..., torch.optim.Optimizer]) -> Callable[..., Any]:
    def made(parameters: Any, *, beta1: float, beta2: float, **settings: Any) -> Any:
        return make(parameters, betas=(beta1, beta2), **settings)

    return made


def _asgd(parameters: Any, *, power: float, **settings: Any) -> torch.optim.ASGD:
    # On CUDA its other form waits for the device once a tensor; that on the CPU has no other.
    flat = [p for g in parameters for p in (g["params"] if isinstance(g, dict) else [g])]
    on_device = all(p.device.type == "cuda" for p in flat)
    return torch.optim.ASGD(parameters, alpha=power, capturable=on_device, **settings)


def _rprop(
    parameters: Any,
    *,
    eta_minus: float,
    eta_plus: float,
    step_min: float,
    step_max: float,
    **settings: Any,
) -> torch.optim.Rprop:
    etas, step_sizes = (eta_minus, eta_plus), (step_min, step_max)
    return torch.optim.Rprop(parameters, etas=etas, step_sizes=step_sizes, **settings)


def _adafactor(
    parameters: Any, *, power: float, eps: float, clip_rms: float, **settings: Any
) -> torch.optim.Adafactor:
    settings |= {"beta2_decay": -power, "eps": (None, eps), "d": clip_rms}
    return torch.optim.Adafactor(parameters, **settings)


_BELOW_ONE = math.nextafter(1.0, 0.0)
_ABOVE_ONE = math.nextafter(1.0, 2.0)


def _number(
    name: str,
    default: float,
    safe: tuple[float, float],
    scale: Scale,
    doc: str,
    source: str,
    high: float | None = None,
    low: float = 0.0,
) -> Knob:
    return Knob(name, float, default, doc, source, low, high, safe, scale)


_NESTEROV = Knob(
    "nesterov",
    bool,
    False,
    "look ahead along the momentum",
    "google-research/sam: on; most PyTorch versions: off",
)

_SGD_KNOBS = (
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
    _NESTEROV,
)

_DECAY = _number("weight_decay", 0.0, (0.0, 1e-2), "log", "L2 penalty, as SGD's", "torch: 0")
_EPS = _number("eps", 1e-8, (1e-10, 1e-4), "log", "added to the denominator", "torch: 1e-8")
_BETAS = (
    _number("beta1", 0.9, (0.8, 0.99), "linear", "decay of the mean", "torch: 0.9", _BELOW_ONE),
    _number(
        "beta2", 0.999, (0.9, 0.9999), "linear", "decay of the square", "torch: 0.999", _BELOW_ONE
    ),
)

_ADAMW_KNOBS = (
    _number("lr", 1e-3, (1e-5, 1e-2), "log", "learning rate", "GSAM paper, ViT: 3e-3"),
    *_BETAS,
    _EPS,
    _number(
        "weight_decay",
        1e-2,
        (0.0, 0.5),
        "log",
        "decoupled decay, at the unperturbed weights",
        "torch: 0.01; LookSAM paper, ViT: 0.3",
    ),
)

_ADAM_KNOBS = (
    _number("lr", 1e-3, (1e-5, 1e-2), "log", "learning rate", "torch: 1e-3"),
    *_BETAS,
    _EPS,
    _DECAY,
)

_ADAMAX_KNOBS = (
    _number("lr", 2e-3, (1e-5, 1e-2), "log", "learning rate", "torch: 2e-3"),
    *_BETAS,
    _EPS,
    _DECAY,
)

_NADAM_KNOBS = (
    *_ADAMAX_KNOBS,
    _number("momentum_decay", 4e-3, (0.0, 0.1), "linear", "how soon beta1 acts", "torch: 4e-3"),
)

_RMSPROP_KNOBS = (
    _number("lr", 1e-3, (1e-5, 1e-1), "log", "learning rate", "torch: 1e-2"),
    _number(
        "beta2", 0.99, (0.8, 0.999), "linear", "decay of the square", "torch's alpha", _BELOW_ONE
    ),
    _number("momentum", 0.0, (0.0, 0.99), "linear", "heavy-ball momentum", "torch: 0"),
    _EPS,
    _DECAY,
)

_ADADELTA_KNOBS = (
    _number("lr", 1.0, (1e-2, 10.0), "log", "factor on its own step", "torch: 1"),
    _number(
        "beta2", 0.9, (0.8, 0.999), "linear", "decay of the squares", "torch's rho", _BELOW_ONE
    ),
    _number("eps", 1e-6, (1e-8, 1e-4), "log", "added to both squares", "torch: 1e-6"),
    _DECAY,
)

_ADAGRAD_KNOBS = (
    _number("lr", 1e-2, (1e-4, 1.0), "log", "learning rate", "torch: 1e-2"),
    _number("eps", 1e-10, (1e-12, 1e-4), "log", "added to the denominator", "torch: 1e-10"),
    _DECAY,
)

_ASGD_KNOBS = (
    _number("lr", 1e-2, (1e-4, 1.0), "log", "first learning rate", "torch: 1e-2"),
    _number("lambd", 1e-4, (1e-6, 1e-1), "log", "decay of the weights and of lr", "torch: 1e-4"),
    _number(
        "power", 0.75, (0.5, 1.0), "linear", "lr / (1 + lambd lr t)^power", "torch's alpha: 0.75"
    ),
    _DECAY,
)

_RPROP_KNOBS = (
    _number(
        "lr",
        1e-2,
        (1e-5, 1e-1),
        "log",
        "first step of each weight; no schedule acts on it later",
        "torch: 1e-2",
    ),
    _number(
        "eta_minus",
        0.5,
        (0.2, 0.9),
        "linear",
        "factor where the sign changed",
        "torch's etas: 0.5",
        _BELOW_ONE,
        1e-6,
    ),
    _number(
        "eta_plus",
        1.2,
        (1.01, 2.0),
        "linear",
        "factor where it did not",
        "torch's etas: 1.2",
        None,
        _ABOVE_ONE,
    ),
    _number("step_min", 1e-6, (1e-9, 1e-3), "log", "smallest step", "torch's step_sizes: 1e-6"),
    _number("step_max", 50.0, (1e-2, 50.0), "log", "largest step", "torch's step_sizes: 50"),
)

_ADAFACTOR_KNOBS = (
    _number(
        "lr",
        1e-2,
        (1e-4, 1.0),
        "log",
        "bound of the relative step, which is 1 / sqrt(t) at most",
        "torch: 1e-2",
    ),
    _number(
        "power", 0.8, (0.5, 1.0), "linear", "beta2 = 1 - t^-power", "torch's beta2_decay: -0.8"
    ),
    _number("eps", 1e-3, (1e-6, 1e-2), "log", "least scale of a tensor", "torch's second: 1e-3"),
    _number(
        "clip_rms", 1.0, (1.0, 10.0), "linear", "largest RMS of a step", "torch's d: 1", None, 1.0
    ),
    _number("weight_decay", 0.0, (0.0, 1e-2), "log", "decoupled decay", "torch: 0"),
)


def _base(
    name: str,
    make: Callable[..., torch.optim.Optimizer],
    knobs: Iterable[Knob],
    has_fused: bool = True,
) -> BaseOptimizer:
    return BaseOptimizer(name, {k.name: k for k in knobs}, make, has_fused)


BASES: dict[str, BaseOptimizer] = {
    base.name: base
    for base in (
        _base("sgd", _sgd, _SGD_KNOBS),
        _base("adamw", _with_betas(torch.optim.AdamW), _ADAMW_KNOBS),
        _base("adam", _with_betas(torch.optim.Adam), _ADAM_KNOBS),
        _base("nadam", _with_betas(torch.optim.NAdam), _NADAM_KNOBS, has_fused=False),
        _base("radam", _with_betas(torch.optim.RAdam), _ADAM_KNOBS, has_fused=False),
        _base("adamax", _with_betas(torch.optim.Adamax), _ADAMAX_KNOBS, has_fused=False),
        _base(
            "rmsprop", _with_beta2(torch.optim.RMSprop, "alpha"), _RMSPROP_KNOBS, has_fused=False
        ),
        _base(
            "adadelta", _with_beta2(torch.optim.Adadelta, "rho"), _ADADELTA_KNOBS, has_fused=False
        ),
        _base("adagrad", torch.optim.Adagrad, _ADAGRAD_KNOBS, has_fused=False),
        _base("asgd", _asgd, _ASGD_KNOBS, has_fused=False),
        _base("rprop", _rprop, _RPROP_KNOBS, has_fused=False),
        _base("adafactor", _adafactor, _ADAFACTOR_KNOBS, has_fused=False),
    )
}
"""Those that a space may name: `base: rmsprop`. Code may give a variant any `torch.optim` one."""

NOT_BASES: dict[str, tuple[str, str]] = {
    "muon": (
        "Muon takes matrices only, and a network has biases and convolutions as well",
        "adamw",
    ),
    **{kind.__name__.lower(): (why, "adam") for kind, why in NEVER_BASES.items()},
}
"""Optimizers of torch that a space cannot name: why, and the nearest that it can."""


def why_no_base(word: str, bases: Sequence[str]) -> str:
    """Why this optimizer of torch is none of `bases`, and which of them to write; empty where the
    word is not of those."""
    why, instead = NOT_BASES.get(word.lower().replace("_", ""), ("", ""))
    return why and f"{why}; write `base: {instead if instead in bases else bases[0]}`"


Variant.bases = tuple(BASES)
