"""Small problems in float64 for the optimizers' tests."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samtune.optimizers import BASES, VARIANTS, GradientOracle, StepResult, Variant

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


BASE_KNOBS = {
    "sgd": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
    "adamw": {"lr": 1e-3, "weight_decay": 1e-2},
}


def make(name: str, model: nn.Module, base: str | None = None, **knobs: object) -> Variant:
    """A registered variant over all parameters of the model, with an ordinary base."""
    variant = VARIANTS[name]
    base = base or variant.bases[0]
    return variant(BASES[base].build(model.parameters(), **BASE_KNOBS[base]), **knobs)


def train(
    variant: Variant, model: nn.Module, data: list[tuple[Tensor, Tensor]], **options: object
) -> list[StepResult]:
    return [variant.step(GradientOracle(model, x, y, loss_fn, **options)) for x, y in data]


def weights(model: nn.Module) -> Tensor:
    """All parameters and buffers as one vector."""
    return torch.cat([t.detach().double().flatten() for t in model.state_dict().values()])


def poisoned(when: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss function whose call number `when` (from 1) is infinite, in value and gradient."""
    calls = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        each = F.cross_entropy(outputs, targets, reduction="none")
        return each * float("inf") if calls == when else each

    return loss


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
    def recording(eps):
        seen.append([None if e is None else e.clone() for e in eps])
        with original(eps):
            yield

    variant.perturbed = recording
    return seen


def close(actual: torch.Tensor, expected: object, rtol: float = 1e-10) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.detach(), expected, rtol=rtol, atol=0)
