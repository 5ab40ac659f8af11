"""Small problems in float64 for the optimizers' tests."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samtune.optimizers import (
    BASES,
    VARIANTS,
    GradientOracle,
    Perturbing,
    Scheduled,
    StepResult,
    Variant,
)

loss_fn = nn.CrossEntropyLoss(reduction="none")


class Quadratic(nn.Module):
    """Problem Q: L(w) = (w1^2 + 4 w2^2) / 2 from w = (3, 1), whatever the batch."""

    def __init__(self, *start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start or (3.0, 1.0), dtype=torch.float64))
        self.curvature = torch.tensor([1.0, 4.0], dtype=torch.float64)[: len(self.weight)]

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight**2 * self.curvature).sum() / 2 + 0 * x.sum(1)


def value(outputs: Tensor, targets: Tensor) -> Tensor:
    """The model's output is the loss."""
    return outputs


class Zoo(nn.Module):
    """BatchNorm, dropout, and parameters that are shared, unused and frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8, bias=False)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.3)
        self.shared = nn.Linear(8, 8)
        self.unused = nn.Parameter(torch.ones(3))
        self.frozen = nn.Linear(8, 8)
        self.frozen.requires_grad_(False)
        self.last = nn.Linear(8, 3)
        self.last.weight.data.mul_(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(torch.tanh(self.norm(self.first(x))))
        x = torch.tanh(self.shared(x) + self.frozen(x))
        return self.last(torch.tanh(self.shared(x)))


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build().double()


def plain_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def norm_net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
    )


def batches(count: int, size: int = 16, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 6, generator=g, dtype=torch.float64),
            torch.randint(3, (size,), generator=g),
        )
        for _ in range(count)
    ]


PERTURBING = [n for n, v in VARIANTS.items() if issubclass(v, Perturbing)]
SCHEDULED = [n for n, v in VARIANTS.items() if issubclass(v, Scheduled)]
PERTURBING_AT_ONCE = [n for n in PERTURBING if n != "momentum_sam"]
"""Those that need no momentum for it, which the first step does not have."""

ACTS_WITH: dict[str, dict[str, object]] = {
    "rho_min": {"rho_schedule": "linear"},
    "m": {"m": 8},
    "bayesian_sam.beta1": {"beta1": 0.5},
    "bayesian_sam.beta2": {"beta2": 0.5},
    "bayesian_sam.m": {"m": 2},
    "esam.beta": {"beta": 0.8},
    "esam.gamma": {"gamma": 0.8},
    "friendly_sam.lambda_": {"lambda_": 0.5},
    "wsam.gamma": {"gamma": 0.5},
    "vasso.theta": {"theta": 0.5},
    "unified_sam.lambda_": {"lambda_": 1.0},
    "ae_sam.delta": {"delta": 0.0, "lambda_1": 3.0, "lambda_2": 3.0},
    "ae_sam.lambda_1": {"lambda_1": 100.0},
    "sparse_sam.sparsity": {"sparsity": 0.9},
    "sparse_sam.drop_rate": {"drop_rate": 1.0, "update_freq": 1},
    "sparse_sam.update_freq": {"update_freq": 1},
    "sparse_sam.samples": {"mask": "fisher", "samples": 2},
    "fisher_sam.fisher": {"eta": 1000.0},
    "gam.alpha": {"alpha": 0.9},
    "gam.beta": {"beta": 0.9},
    "k_sam.kept": {"kept": 1.0},
    "lookbehind_sam.alpha": {"alpha": 1.0},
}
"""By "knob" or "variant.knob", for one that needs others to act: those. Under its own name it
gives the value to compare the default with, where the test's own guess does not do."""

ADAPTIVE = [n for n, v in VARIANTS.items() if "adaptive" in v.knobs()]
ACTS_WITH |= {
    f"{n}.{knob}": {"adaptive": True} for n in ADAPTIVE for knob in ("eta", "normalize_bias")
}

SINGLE_SAMPLES = {"fisher_sam.fisher", "sparse_sam.mask", "sparse_sam.samples"}
"""Knobs that ask for passes over single samples, which BatchNorm1d refuses."""

EXAM: dict[str, dict[str, object]] = {"look_sam": {"k": 2}, "look_layer_sam": {"k": 2}}
"""Knobs for short tests, where the default does not act soon enough."""

UNSELECTIVE: dict[str, dict[str, object]] = {
    "esam": {"beta": 1.0, "gamma": 1.0},
    "k_sam": {"kept": 1.0},
    "lookbehind_sam": {"k": 1, "alpha": 1.0},
    "sparse_sam": {"sparsity": 0.0},
    "bayesian_sam": {"m": 1},
}
"""Knobs at which a variant takes all weights and all samples, and one step of its base."""

DATA_DEPENDENT = {"ae_sam"}
"""Variants whose cost is an expectation."""

BASE_KNOBS = {
    "sgd": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
    "adamw": {"lr": 1e-3, "weight_decay": 1e-2},
}


def make(name: str, model: nn.Module, base: str | None = None, **knobs: object) -> Variant:
    """Return a registered variant over all parameters of the model, with an ordinary base."""
    return over(list(model.parameters()), name, base, **knobs)


def over(parameters: list, name: str, base: str | None = None, **knobs: object) -> Variant:
    """Return a variant over given parameters or groups; `lr` goes to the variant or its base."""
    variant = VARIANTS[name]
    knobs = {**EXAM.get(name, {}), **knobs}
    if not variant.bases:
        return variant(parameters, **{"n_data": 1000, "lr": 0.05, **knobs})
    base = base or variant.bases[0]
    settings = dict(BASE_KNOBS[base])
    if "lr" in knobs:
        settings["lr"] = knobs.pop("lr")
    return variant(BASES[base].build(parameters, **settings), **knobs)


PAIRS = [
    (n, b) for n, v in VARIANTS.items() for b in v.bases or (None,) if b is None or b in BASE_KNOBS
]
"""Each variant with SGD and AdamW, where it takes them; None where it is its own."""


def train(
    variant: Variant,
    model: nn.Module,
    data: list[tuple[Tensor, Tensor]],
    start: int = 0,
    of: int | None = None,
    **options: object,
) -> list[StepResult]:
    """Make steps from number `start` in a schedule of `of` steps, by default all of them."""
    results = []
    for i, (x, y) in enumerate(data):
        variant.set_progress((start + i) / (of or len(data)))
        results.append(variant.step(GradientOracle(model, x, y, loss_fn, **options)))
    return results


def weights(model: nn.Module) -> Tensor:
    """Return all parameters and buffers as one vector."""
    return torch.cat([t.detach().double().flatten() for t in model.state_dict().values()])


def parameters(model: nn.Module) -> Tensor:
    """Without the buffers, of which a count of batches would outweigh all else in a norm."""
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


def poisoned(when: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss function; its call number `when` (from 1) is infinite, with its gradient."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        loss.sizes.append(len(outputs))
        each = F.cross_entropy(outputs, targets, reduction="none")
        return each * float("inf") if len(loss.sizes) == when else each

    loss.sizes = []
    return loss


def passes_of_the_first_step(name: str) -> tuple[int, int]:
    """Return the numbers of forward and backward passes in it, of any size."""
    model = seeded(plain_net)
    counting, backwards = poisoned(0), []
    model[0].weight.register_hook(backwards.append)
    [(x, y)] = batches(1)
    make(name, model).step(GradientOracle(model, x, y, counting))
    return len(counting.sizes), len(backwards)


def on_q(variant: Variant, model: nn.Module, count: int = 1, scale: float = 1.0) -> None:
    for _ in range(count):
        x = torch.zeros(4, 1, dtype=torch.float64)
        oracle = GradientOracle(model, x, x, lambda out, _: scale * out)
        variant.step(oracle)


def perturbations(variant: Variant) -> list[list[torch.Tensor | None]]:
    """Fills with a copy of each eps that the variant uses from now on."""
    seen = []
    original = variant.perturbed

    @contextmanager
    def recording(d, factor, **options):
        number, each = factor if isinstance(factor, tuple) else (factor, [1.0] * len(d))
        pairs = zip(d, each, strict=True)
        seen.append([None if t is None else number * s * t.double() for t, s in pairs])
        with original(d, factor, **options):
            yield

    variant.perturbed = recording
    return seen


def close(actual: torch.Tensor, expected: object, rtol: float = 1e-10) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.detach(), expected, rtol=rtol, atol=0)


def descents(optimizer: Variant) -> list[list[Tensor | None]]:
    """Fills with a copy of each direction that the base optimizer takes from now on."""
    seen, step = [], optimizer.base.step

    def recording():
        seen.append([None if p.grad is None else p.grad.clone() for p in optimizer.parameters])
        step()

    optimizer.base.step = recording
    return seen


def flat(tensors: list[Tensor | None]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors if t is not None])


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    found = torch.autograd.grad(loss_fn(model(x), y).mean(), list(model.parameters()))
    return flat(list(found))


def moved(model: nn.Module, eps: list[Tensor | None]) -> nn.Module:
    """Return a copy of the model at w + eps."""
    other = seeded(plain_net)
    for p, w, e in zip(other.parameters(), model.parameters(), eps, strict=True):
        p.data = w.detach() + e
    return other


def q(variant: type[Variant], momentum: float = 0.0, **knobs: object) -> tuple[Variant, Quadratic]:
    model = Quadratic()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    return variant(base, **knobs), model


def snapshot(model: nn.Module, variant: Variant) -> object:
    """Copy all that a step may change: weights, buffers, state of the variant and its base."""
    base = variant.state_dict()["state"]
    return copy.deepcopy((dict(model.state_dict()), base, variant.memory))
