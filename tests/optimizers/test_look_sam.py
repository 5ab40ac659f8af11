"""LookSAM and Look-LayerSAM: their values by hand, what they reuse, and when."""

from __future__ import annotations

import math

import problems
import pytest
import torch
from problems import (
    Quadratic,
    batches,
    close,
    make,
    norm_net,
    on_q,
    perturbations,
    plain_net,
    seeded,
    train,
)
from torch import nn

from samtune.optimizers import BASES, SAM, VARIANTS, GradientOracle, LookLayerSAM, LookSAM


@pytest.mark.parametrize(
    ("alpha", "w"),
    [
        (0.7, (2.582081836041515, 0.129688622968864)),
        (0.5, (2.530915597172510, 0.168063302120617)),
    ],
)
def test_look_sam_on_q(alpha, w):
    model = Quadratic()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    variant = LookSAM(base, rho=0.5, k=2, alpha=alpha)
    on_q(variant, model)
    close(model.weight, (2.67, 0.44))
    v = variant.memory["v"][0] / variant._length()
    close(v, torch.tensor([-0.8, 0.6]), rtol=1e-7)
    on_q(variant, model)
    close(model.weight, w)


@pytest.mark.parametrize("name", ["look_sam", "look_layer_sam"])
def test_look_sam_without_reuse_is_sam_every_k_th_step(name):
    """The reference alternates perturbing and plain steps of one base optimizer by hand."""
    mine, theirs = seeded(norm_net), seeded(norm_net)
    look = make(name, mine, k=3, alpha=0, rho=0.05)
    base = BASES["sgd"].build(theirs.parameters(), **problems.BASE_KNOBS["sgd"])
    perturbs, plain = VARIANTS[name](base, k=1, rho=0.05), VARIANTS["sgd"](base)
    if name == "look_sam":
        perturbs = SAM(base, rho=0.05)
    for i, batch in enumerate(batches(7)):
        train(look, mine, [batch])
        train(plain if i % 3 else perturbs, theirs, [batch])
        assert torch.equal(problems.weights(mine), problems.weights(theirs)), i


@pytest.mark.parametrize("alpha", [0, 2])
def test_alpha_may_change_between_steps_to_a_whole_number(alpha):
    ends = []
    for value in (alpha, float(alpha)):
        model = seeded(norm_net)
        variant = make("look_sam", model, k=3)
        train(variant, model, batches(1))
        variant.alpha = value
        train(variant, model, batches(2, seed=2))
        ends.append(problems.weights(model))
    assert torch.equal(*ends)


def test_auto_alpha_is_the_share_at_the_refresh():
    model = Quadratic()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    variant = LookSAM(base, rho=0.5, k=2, alpha="auto")
    on_q(variant, model)
    close(variant.memory["v"][0].norm() / variant._length(), 0.72 / 5)


def test_look_sam_is_exact_on_a_long_float32_vector():
    """torch's norm of so many elements in a row is off by 1e-3 on the CPU."""
    size, generator = 2**24, torch.Generator().manual_seed(0)

    class Long(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.rand(size, generator=generator))
            # Two halves of different curvature, so that g_v is long as well.
            self.curvature = torch.ones(size)
            self.curvature[size // 2 :] = 3

        def forward(self, x):
            return (self.w.square() * self.curvature).sum() / 2 + 0 * x.sum(1)

    model = Long()
    variant = LookSAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=1000.0, k=2)
    seen = perturbations(variant)
    x = torch.zeros(1, 1)
    variant.step(GradientOracle(model, x, x, problems.value))
    v = variant.memory["v"][0].double() / variant._length().double()
    assert v.norm().item() == pytest.approx(1, rel=2e-5)
    g = (model.curvature * model.w.detach()).double()
    assert abs(torch.dot(v, g / g.norm()).item()) < 2e-5
    assert seen[0][0].norm().item() == pytest.approx(1000, rel=2e-5)


def test_nothing_is_reused_where_the_hessian_is_isotropic():
    class Bowl(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(50, generator=torch.Generator().manual_seed(1)))

        def forward(self, x):
            return 1.5 * (self.w**2).sum() + 0 * x.sum(1)

    for dtype in (torch.float32, torch.float64):
        model = Bowl().to(dtype)
        variant = make("look_sam", model, k=2)
        x = torch.zeros(2, 1, dtype=dtype)
        variant.step(GradientOracle(model, x, x, problems.value))
        assert variant._length().isinf() and variant.memory["v"][0].isfinite().all()


def test_look_layer_sam_perturbs_each_layer_by_its_weights():
    model = seeded(plain_net)
    model[0].bias.data.zero_()
    variant = LookLayerSAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.2, k=1)
    seen = perturbations(variant)
    before = [p.detach().clone() for p in model.parameters()]
    train(variant, model, batches(1))
    for i, (eps, w) in enumerate(zip(seen[0], before, strict=True)):
        assert eps.norm().item() == pytest.approx(0.0 if i == 1 else 0.2 * w.norm().item())


def test_one_tensor_of_look_layer_sam_is_look_sam():
    ends = []
    for variant, rho in ((LookLayerSAM, 0.1), (LookSAM, 0.1 * math.sqrt(10))):
        model = Quadratic()
        on_q(variant(torch.optim.SGD(model.parameters(), lr=0.1), rho=rho, k=1), model)
        ends.append(model.weight.detach())
    close(*ends)
