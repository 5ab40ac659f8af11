"""ESAM: its values by hand, and the samples and weights that it takes."""

from __future__ import annotations

import math

import problems
import pytest
import torch
from problems import (
    Quadratic,
    batches,
    close,
    loss_fn,
    make,
    on_q,
    perturbations,
    plain_net,
    seeded,
    train,
)
from torch import nn

from samtune.optimizers import ESAM, GradientOracle


def test_esam_on_q():
    model = Quadratic()
    variant = ESAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, beta=0.5, gamma=1)
    variant._thin_ = lambda g: g[0].mul_(torch.tensor([1.0, 0.0]))
    seen = perturbations(variant)
    on_q(variant, model)
    close(seen[0][0], (0.6, 0))
    close(model.weight, (2.64, 0.6))


class Split(nn.Module):
    """Q with its two weights as two tensors."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, x):
        return (self.a**2 + 4 * self.b**2) / 2 + 0 * x.sum(1)


def test_esam_by_tensors_on_q():
    model = Split()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    variant = ESAM(base, rho=0.5, beta=0.5, gamma=1, swp_mode="tensor")
    variant._drawn = lambda parameters: [parameters[0], None]
    seen = perturbations(variant)
    on_q(variant, model)
    assert seen[0][1] is None
    close(seen[0][0], 1.0)
    close(torch.stack([model.a, model.b]), (2.6, 0.6))


@pytest.mark.parametrize(("mode", "radius"), [("tensor", 2.0), ("element", math.sqrt(2))])
def test_the_radius_of_esams_forms(mode, radius):
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 900), nn.Tanh(), nn.Linear(900, 3)))
    variant = make("esam", model, rho=0.1, beta=0.5, swp_mode=mode)
    seen = perturbations(variant)
    train(variant, model, batches(4))
    for eps in seen:
        norm = sum((e**2).sum() for e in eps if e is not None).sqrt().item()
        assert norm == pytest.approx(0.1 * radius, rel=1e-9 if mode == "tensor" else 0.25)


@pytest.mark.parametrize(("gamma", "b", "count"), [(0.5, 16, 8), (0.3, 5, 2), (1e-6, 4, 1)])
def test_esam_descends_on_the_samples_that_rise_most(gamma, b, count):
    model = seeded(plain_net)
    variant = make("esam", model, gamma=gamma)
    chosen = []

    class Recording(GradientOracle):
        def losses(self, index=None):
            super().losses(index)
            return self.clean + torch.arange(b).flip(0)

        def grad(self, parameters, index=None):
            found = super().grad(parameters, index)
            if index is None:
                self.clean = self.sample_losses
            else:
                chosen.append(index.tolist())
            return found

    [(x, y)] = batches(1, size=b)
    variant.step(Recording(model, x, y, loss_fn))
    assert chosen == [list(range(count))]


def test_esam_takes_as_many_when_none_rises():
    model = Quadratic()
    variant = make("esam", model, gamma=0.5)
    x = torch.zeros(4, 1, dtype=torch.float64)
    result = variant.step(GradientOracle(model, x, x, problems.value))
    assert result.backward_samples == 4 + 2
