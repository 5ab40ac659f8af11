"""The contenders of `benchmarks.step`: shapes of networks, samtune's variants and other SAMs.

Only the work of the optimizer is measured, so no model runs. Where a step would make a forward and
a backward pass, it gets prepared gradients, and the meter pauses meanwhile.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Protocol

import torch
import torchvision
from torch import Tensor, nn

from samtune.optimizers import BASES, VARIANTS, GradientOracle, Variant

BATCH = 128
CLASSES = 10
TRAINING_SET = 50_000
LR, MOMENTUM, WEIGHT_DECAY, RHO = 1e-3, 0.9, 5e-4, 0.05


def resnet18() -> nn.Module:
    """Return ResNet-18 with the stem for 32x32 images: 11.17 M parameters in 62 tensors."""
    net: nn.Module = torchvision.models.resnet18(num_classes=CLASSES)
    net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


def wrn28_10() -> nn.Module:
    """Return the layers of WRN-28-10, not connected: 36.48 M parameters in 80 tensors."""
    widths = [16] + [w for w in (160, 320, 640) for _ in range(4)]
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, bias=False)]
    for narrow, wide in itertools.pairwise(widths):
        layers += [nn.BatchNorm2d(narrow), nn.Conv2d(narrow, wide, 3, bias=False)]
        layers += [nn.BatchNorm2d(wide), nn.Conv2d(wide, wide, 3, bias=False)]
        if narrow != wide:
            layers += [nn.Conv2d(narrow, wide, 1, bias=False)]
    return nn.ModuleList([*layers, nn.BatchNorm2d(640), nn.Linear(640, CLASSES)])


def vit_s() -> nn.Module:
    """Return ViT-S/4 for 32x32 images: 21.34 M parameters in 152 tensors."""
    net: nn.Module = torchvision.models.VisionTransformer(
        32, 4, 12, 6, 384, 1536, num_classes=CLASSES
    )
    return net


SHAPES: dict[str, Callable[[], nn.Module]] = {
    "resnet18": resnet18,
    "wrn28_10": wrn28_10,
    "vit_s": vit_s,
}


class Meter(Protocol):
    """A clock or a counter that pauses while gradients are supplied."""

    def handing_out(self) -> AbstractContextManager[None]: ...


class Problem:
    """The parameters of a network, and prepared gradients of two passes, supplied in turn."""

    def __init__(self, model: nn.Module, device: torch.device | str) -> None:
        self.model = model
        self.parameters: list[Tensor] = list(model.parameters())
        self.size = sum(p.numel() for p in self.parameters)
        with torch.device(device):
            self.batch = torch.zeros(BATCH), torch.zeros(BATCH, dtype=torch.int64)
            self.losses = torch.rand(BATCH)
            self.outputs = torch.randn(BATCH, CLASSES)
        self._gradients = [
            {p: torch.randn_like(p.detach()) * 1e-3 for p in self.parameters} for _ in range(2)
        ]

    def gradients(self, turn: int, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return fresh copies of the gradients of pass number `turn`."""
        return [self._gradients[turn % 2][p].clone() for p in parameters]


class PreparedOracle(GradientOracle):
    """An oracle that returns prepared gradients."""

    def __init__(self, problem: Problem, meter: Meter) -> None:
        super().__init__(problem.model, *problem.batch, lambda outputs, targets: outputs)
        self._problem = problem
        self._meter = meter
        self._turn = 0

    def grad(self, parameters: Sequence[Tensor], index: Any = None) -> list[Tensor | None]:
        with self._meter.handing_out():
            self.backward_samples += self._see(index)
            self._turn += 1
            return list(self._problem.gradients(self._turn, parameters))

    def losses(self, index: Any = None) -> Tensor:
        with self._meter.handing_out():
            self._see(index)
            assert self.sample_losses is not None
            return self.sample_losses

    def _see(self, index: Any) -> int:
        every = self._problem.losses[: len(self)]
        self.sample_losses = every.clone() if index is None else every[index].clone()
        self.forward_samples += len(self.sample_losses)
        if self.loss is None:
            self.loss = self.sample_losses.mean()
            self.outputs = self._problem.outputs[: len(self)]
        return len(self.sample_losses)


@dataclass
class Contender:
    """An optimizer to measure; `cycle` steps include each of its kinds of step."""

    name: str
    step: Callable[[Meter], object]
    base: torch.optim.Optimizer
    cycle: int = 1
    passes: tuple[float, float] = (2.0, 2.0)


def build(name: str, model: nn.Module, **knobs: Any) -> Variant:
    """Return the variant, over SGD with momentum if it takes it; other knobs are the defaults."""
    variant = VARIANTS[name]
    if not variant.bases:
        alone: Any = variant
        made: Variant = alone(model.parameters(), n_data=TRAINING_SET, **knobs)
        return made
    if "sgd" in variant.bases:
        base = BASES["sgd"].build(
            model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
    else:
        base = BASES[variant.bases[0]].build(model.parameters(), lr=LR)
    return variant(base, **knobs)


def cycle(variant: Variant) -> int:
    """Return the number of steps with a whole number of passes: 5 for one more per five steps."""
    whole = (Fraction(p).limit_denominator(20).denominator for p in variant.passes)
    return math.lcm(*whole)


def ours(name: str, problem: Problem, **knobs: Any) -> Contender:
    """Return samtune's variant of that name."""
    variant = build(name, problem.model, **knobs)
    return Contender(
        name,
        lambda meter: variant.step(PreparedOracle(problem, meter)),
        variant.base,
        cycle(variant),
        variant.passes,
    )


class TextbookSAM:
    """The simplest implementation of SAM: a loop over the parameters, and a copy of the weights.

    Two such steps around a second backward pass equal samtune's SAM.
    """

    def __init__(self, parameters: Sequence[Tensor], base: torch.optim.Optimizer) -> None:
        self.parameters = parameters
        self.base = base
        self.saved: list[Tensor] = []

    @torch.no_grad()
    def first_step(self, zero_grad: bool) -> None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.norm(torch.stack([torch.norm(g) for g in gradients]))
        scale = RHO / (norm + 1e-12)
        self.saved = [p.detach().clone() for p in self.parameters]
        for p, g in zip(self.parameters, gradients, strict=True):
            p.add_(g * scale)
        if zero_grad:
            self.base.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad: bool) -> None:
        for p, w in zip(self.parameters, self.saved, strict=True):
            p.copy_(w)
        self.saved = []
        self.base.step()
        if zero_grad:
            self.base.zero_grad()


class ReferenceSAM:
    """SAM as the field's first PyTorch implementation computes it, which most others follow.

    It multiplies by the factor of ASAM, 1.0, which costs a pass over memory each time.
    """

    def __init__(self, parameters: Sequence[Tensor], base: torch.optim.Optimizer) -> None:
        self.parameters = parameters
        self.base = base
        self.first: list[Tensor] = []

    @torch.no_grad()
    def first_step(self, zero_grad: bool) -> None:
        norms = [(1.0 * p.grad).norm() for p in self.parameters if p.grad is not None]
        scale = RHO / (torch.stack(norms).norm() + 1e-12)
        for p in self.parameters:
            assert p.grad is not None
            self.first.append(p.detach().clone())
            p.add_(1.0 * p.grad * scale)
        if zero_grad:
            self.base.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad: bool) -> None:
        for p, w in zip(self.parameters, self.first, strict=True):
            p.data = w
        self.first = []
        self.base.step()
        if zero_grad:
            self.base.zero_grad()


def peers() -> dict[str, Callable[[Problem], Contender]]:
    """Return torch's SGD, two SAMs as loops, and pytorch-optimizer's SAM if it is installed."""
    found: dict[str, Callable[[Problem], Contender]] = {
        "torch SGD": _torch_sgd,
        TEXTBOOK: partial(_loop, TEXTBOOK, TextbookSAM),
        REFERENCE: partial(_loop, REFERENCE, ReferenceSAM),
    }
    if importlib.util.find_spec("pytorch_optimizer") is not None:
        found["pytorch-optimizer SAM"] = partial(_pytorch_optimizer, foreach=None)
        found["pytorch-optimizer SAM, foreach"] = partial(_pytorch_optimizer, foreach=True)
    return found


TEXTBOOK = "textbook SAM loop"
REFERENCE = "reference SAM loop"


def _torch_sgd(problem: Problem) -> Contender:
    sgd = torch.optim.SGD(problem.parameters, **_settings(problem))

    def step(meter: Meter) -> None:
        _hand_out(problem, meter, 0)
        sgd.step()
        sgd.zero_grad()

    return Contender("torch SGD", step, sgd, passes=(1.0, 1.0))


def _loop(name: str, kind: type[TextbookSAM | ReferenceSAM], problem: Problem) -> Contender:
    sgd = torch.optim.SGD(problem.parameters, **_settings(problem))
    return _two_step(name, kind(problem.parameters, sgd), sgd, problem)


def _pytorch_optimizer(problem: Problem, foreach: bool | None) -> Contender:
    from pytorch_optimizer import SAM

    settings = _settings(problem) | ({"foreach": True} if foreach else {})
    sam = SAM(problem.parameters, torch.optim.SGD, rho=RHO, **settings)
    name = "pytorch-optimizer SAM" + (", foreach" if foreach else "")
    return _two_step(name, sam, sam.base_optimizer, problem)


def _settings(problem: Problem) -> dict[str, Any]:
    # torch chooses foreach by itself on CUDA, but not for fake tensors.
    foreach = {"foreach": True} if problem.parameters[0].is_cuda else {}
    return {"lr": LR, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY, **foreach}


def _two_step(name: str, sam: Any, base: torch.optim.Optimizer, problem: Problem) -> Contender:
    def step(meter: Meter) -> None:
        _hand_out(problem, meter, 0)
        sam.first_step(zero_grad=True)
        _hand_out(problem, meter, 1)
        sam.second_step(zero_grad=True)

    return Contender(name, step, base)


def _hand_out(problem: Problem, meter: Meter, turn: int) -> None:
    with meter.handing_out():
        gradients = problem.gradients(turn, problem.parameters)
        for p, g in zip(problem.parameters, gradients, strict=True):
            p.grad = g
