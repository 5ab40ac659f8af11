"""Measure where public implementations differ from samtune's: `python docs/differences.py`.

The rule of each is written here as a small change to samtune's variant. Both train the same
network on the same batches. The difference is the distance between their weights after 1 step and
after 30, as a share of the way that samtune's weights have gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from samtune.optimizers import (
    ASAM,
    ESAM,
    GSAM,
    SAM,
    BayesianSAM,
    FriendlySAM,
    GradientOracle,
    LookSAM,
    Variant,
)
from samtune.optimizers.tensors import along

STEPS = 30
DECAY = 5e-3
UNIFIED = "johnjaejunlee95/torch-unified-SAM-optimization"


def sgd(model: nn.Module, decay: float = 0.0) -> torch.optim.SGD:
    """Return the base of both sides."""
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=decay)


class OneFewer(GradientOracle):
    """An oracle that keeps the samples above the k-th largest rise, so one fewer than k."""

    def largest(self, scores: Tensor, share: float) -> Tensor:
        """Return the chosen samples without the last of them."""
        return super().largest(scores, share)[:-1]


class DecayInLoss(GradientOracle):
    """An oracle with the L2 penalty in its loss, so that the perturbation sees it as well."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, loss_fn: Any) -> None:
        def penalised(outputs: Tensor, targets: Tensor) -> Tensor:
            squares = sum((p**2).sum() for p in model.parameters())
            return loss_fn(outputs, targets) + DECAY / 2 * squares

        super().__init__(model, x, y, penalised)


class EvalMode(SAM):
    """SAM with its second pass in eval mode: BatchNorm by running statistics, no dropout."""

    def sharp(self, oracle: GradientOracle) -> list[Tensor | None]:
        """Return h in eval mode."""
        g = self.gradient(oracle)
        with self.ascended(*self.ascent(g, oracle)):
            oracle.model.eval()
            h = self.gradient(oracle)
        oracle.model.train()
        return h


class SmallestFirst(GSAM):
    """GSAM that reads the learning rate before its scheduler sets it: rho_min comes first."""

    @property
    def radii(self) -> list[float]:
        """The radii of the groups; rho_min in the first step."""
        return [self.rho_min] if self.progress == 0 else super().radii


class FromZero(FriendlySAM):
    """Friendly SAM whose mean begins at 0 and is updated before its use."""

    def ascent(self, g: Any, oracle: GradientOracle) -> Any:
        """Return eps along g - sigma m, with the new m."""
        old = self.memory.get("mean") or [torch.zeros_like(d) for d in g]
        mean = [torch.lerp(d, m, self.lambda_) for d, m in zip(g, old, strict=True)]
        self.memory["mean"] = mean
        return along([d - self.sigma * m for d, m in zip(g, mean, strict=True)], self.radius)


class NoNoise(BayesianSAM):
    """Bayesian SAM without noise: its loop skips weights whose gradient has been cleared."""

    def noise(self, roots: Any) -> Any:
        """Return zeros."""
        return [torch.zeros_like(t) for t in roots]


def late_look(model: nn.Module) -> LookSAM:
    """Return a LookSAM whose first refresh is in step k, not in the first."""
    optimizer = LookSAM(sgd(model), rho=0.1, k=5, alpha=0.7)
    optimizer.memory["t"] = 1
    return optimizer


@dataclass(frozen=True)
class Difference:
    """One difference: who has it, what it is, and both sides."""

    variant: str
    who: str
    what: str
    ours: Callable[[nn.Module], Variant]
    theirs: Callable[[nn.Module], Variant]
    oracle: type[GradientOracle] = GradientOracle


DIFFERENCES = (
    Difference(
        "SAM",
        "google-research/sam",
        "weight decay is in the loss, and so in the perturbation; here it acts at w only",
        lambda m: SAM(sgd(m, DECAY), rho=0.1),
        lambda m: SAM(sgd(m), rho=0.1),
        DecayInLoss,
    ),
    Difference(
        "ASAM",
        "davda54/sam, pytorch_optimizer (`adaptive=True`)",
        "eta is 0 and biases are scaled; here `eta: 0`, `normalize_bias: all`",
        lambda m: ASAM(sgd(m), rho=0.5),
        lambda m: ASAM(sgd(m), rho=0.5, eta=0.0, normalize_bias="all"),
    ),
    Difference(
        "ASAM",
        UNIFIED,
        "`--sam_type ASAM` without `--adaptive` is SAM, at ASAM's radius",
        lambda m: ASAM(sgd(m), rho=0.5),
        lambda m: SAM(sgd(m), rho=0.5),
    ),
    Difference(
        "ESAM",
        "dydjw9/Efficient_SAM",
        "keeps one sample fewer than ceil(gamma b), and none for a single one",
        lambda m: ESAM(sgd(m), rho=0.1, beta=1.0, gamma=0.5),
        lambda m: ESAM(sgd(m), rho=0.1, beta=1.0, gamma=0.5),
        OneFewer,
    ),
    Difference(
        "ESAM",
        UNIFIED,
        "the second pass is in eval mode, even at beta = gamma = 1, where ESAM is SAM",
        lambda m: ESAM(sgd(m), rho=0.1, beta=1.0, gamma=1.0),
        lambda m: EvalMode(sgd(m), rho=0.1),
    ),
    Difference(
        "GSAM",
        "juntang-zhuang/GSAM",
        "the first radius is rho_min: it reads the learning rate before the scheduler sets it",
        lambda m: GSAM(sgd(m), rho_max=0.2, alpha=0.1),
        lambda m: SmallestFirst(sgd(m), rho_max=0.2, alpha=0.1),
    ),
    Difference(
        "LookSAM",
        UNIFIED,
        "the first refresh is in step k; the steps before it are the base's",
        lambda m: LookSAM(sgd(m), rho=0.1, k=5, alpha=0.7),
        late_look,
    ),
    Difference(
        "Friendly SAM",
        "the order of the paper, from m = 0",
        "the mean is updated before its use; in nblt/F-SAM and here after it, from m = g",
        lambda m: FriendlySAM(sgd(m), rho=0.1, sigma=0.5),
        lambda m: FromZero(sgd(m), rho=0.1, sigma=0.5),
    ),
    Difference(
        "Bayesian SAM",
        UNIFIED,
        "applies neither noise nor perturbation: gradients are cleared before they are used",
        lambda m: BayesianSAM(m.parameters(), n_data=1000, lr=0.05, m=1),
        lambda m: NoNoise(m.parameters(), n_data=1000, lr=0.05, m=1, rho=0.0),
    ),
    Difference(
        "Bayesian SAM",
        UNIFIED,
        "damping is 1e-8 and no flag sets it; the authors' is 0.1",
        lambda m: BayesianSAM(m.parameters(), n_data=1000, lr=0.05, m=1, beta2=0.9),
        lambda m: BayesianSAM(m.parameters(), n_data=1000, lr=0.05, m=1, beta2=0.9, damping=1e-8),
    ),
)


def network() -> nn.Module:
    """Return the network, with the same weights at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3)
        return nn.Sequential(*layers).double()


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of 32 samples in three classes."""
    g = torch.Generator().manual_seed(1)
    centres = torch.randn(3, 6, generator=g, dtype=torch.float64)
    for _ in range(STEPS):
        y = torch.randint(3, (32,), generator=g)
        yield centres[y] + torch.randn(32, 6, generator=g, dtype=torch.float64), y


def path(make: Callable[[nn.Module], Variant], oracle: type[GradientOracle]) -> list[Tensor]:
    """Return all weights as one vector, at the start and after each step."""
    model = network()
    optimizer = make(model)
    loss = nn.CrossEntropyLoss(reduction="none")
    found = [nn.utils.parameters_to_vector(model.parameters()).detach().clone()]
    for i, (x, y) in enumerate(batches()):
        optimizer.set_progress(i / STEPS)
        optimizer.step(oracle(model, x, y, loss))
        found.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
    return found


def measured(difference: Difference) -> tuple[float, float]:
    """Return the difference after one step and after all."""
    ours = path(difference.ours, GradientOracle)
    theirs = path(difference.theirs, difference.oracle)
    first, last = (
        float((ours[i] - theirs[i]).norm() / (ours[i] - ours[0]).norm()) for i in (1, STEPS)
    )
    return first, last


def table() -> str:
    """Return the differences as a Markdown table."""
    lines = [
        "| Variant | Who | What | After 1 step | After 30 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for d in DIFFERENCES:
        first, last = (f"{100 * share:.2g} %" if share > 1e-9 else "0" for share in measured(d))
        lines.append(f"| {d.variant} | {d.who} | {d.what} | {first} | {last} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
