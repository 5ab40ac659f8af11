"""The ascent and descent of the further variants, by their equations."""

from __future__ import annotations

import math

import problems
import pytest
import torch
from problems import (
    Quadratic,
    batches,
    close,
    descents,
    flat,
    gradients,
    make,
    moved,
    norm_net,
    on_q,
    perturbations,
    plain_net,
    q,
    seeded,
    train,
    value,
)
from torch import Tensor, nn

from samtune.optimizers import WSAM, FisherSAM, FriendlySAM, GradientOracle

# GSAM.


def test_gsam_never_changes_the_progress_on_the_perturbed_loss():
    model = seeded(plain_net)
    [(x, y)] = batches(1)
    g = gradients(model, x, y)
    before = seeded(plain_net)
    optimizer = make("gsam", model, rho_max=0.3, alpha=0.7)
    eps, d = perturbations(optimizer), descents(optimizer)
    train(optimizer, model, [(x, y)])
    h = gradients(moved(before, eps[0]), x, y)
    perpendicular = (h - flat(d[0])) / 0.7
    assert perpendicular.norm() > 0.01 * g.norm()
    assert abs(perpendicular @ h) <= 1e-12 * g.norm() * h.norm()
    close(flat(d[0]) @ h, h @ h, rtol=1e-12)


def test_gsam_radius_follows_the_learning_rate():
    optimizer = make("gsam", seeded(plain_net), rho_max=0.4, rho_min=0.1)
    for progress, share, rho in (
        (0, None, 0.4),
        (0.25, None, 0.1 + 0.3 * (1 + math.cos(math.pi / 4)) / 2),
        (1, None, 0.1),
        (0, 0.2, 0.16),
    ):
        optimizer.set_progress(progress, share)
        assert optimizer.radius == pytest.approx(rho, rel=1e-12)


# Fisher SAM.


def test_fisher_perturbs_by_rho_in_its_own_norm():
    model = seeded(plain_net)
    [(x, y)] = batches(1)
    F = 1 + 300 * gradients(model, x, y) ** 2
    optimizer = make("fisher_sam", model, rho=0.2, eta=300)
    eps = perturbations(optimizer)
    train(optimizer, model, [(x, y)])
    e = flat(eps[0])
    close((e * F * e).sum().sqrt(), 0.2, rtol=1e-11)


def test_much_fisher_moves_flat_coordinates_most():
    optimizer, model = q(FisherSAM, rho=0.1, eta=1e12)
    eps = perturbations(optimizer)
    on_q(optimizer, model)
    # g = (3, 4), so eps is as 1/3 to 1/4.
    close(eps[0][0][0] / eps[0][0][1], 4 / 3, rtol=1e-9)


def test_fisher_sees_unscaled_gradients():
    ends = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        model = seeded(plain_net)
        optimizer = make("fisher_sam", model, rho=0.2, eta=300)
        train(optimizer, model, batches(3), scaler=scaler)
        ends.append(problems.weights(model))
    assert torch.equal(*ends)


# Friendly SAM and VaSSO.


def test_friendly_with_a_frozen_mean_has_a_closed_form():
    optimizer, model = q(FriendlySAM, rho=0.5, sigma=0.5, lambda_=1)
    eps = perturbations(optimizer)
    on_q(optimizer, model, 2)
    at = model.weight.detach().clone()
    on_q(optimizer, model)
    v = at * model.curvature - 0.5 * torch.tensor([3.0, 4.0], dtype=torch.float64)
    close(eps[2][0], 0.5 * v / v.norm())


def test_friendly_in_the_papers_order():
    """The paper's order, with v = g - sigma m after m, equals the code's with another sigma."""
    sigma, lambda_ = 0.5, 0.9
    coded = sigma * lambda_ / (1 - sigma * (1 - lambda_))
    assert coded == pytest.approx(0.47368, abs=1e-5)
    optimizer, model = q(FriendlySAM, rho=0.5, sigma=coded, lambda_=lambda_)
    eps = perturbations(optimizer)
    mean = None
    for step in range(4):
        g = model.weight.detach() * model.curvature
        mean = g if mean is None else lambda_ * mean + (1 - lambda_) * g
        v = g - sigma * mean if step else g
        on_q(optimizer, model)
        close(eps[step][0], 0.5 * v / v.norm())


class Slope(nn.Module):
    """A loss whose gradient is the same everywhere."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, dtype=dtype))
        self.slope = torch.tensor([0.1, -0.7, 0.3], dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight * self.slope).sum() + 0 * x.sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_friendly_does_not_blow_up_rounding(dtype):
    model = Slope(dtype)
    optimizer = FriendlySAM(torch.optim.SGD(model.parameters(), lr=0.01), lambda_=0.7)
    eps = perturbations(optimizer)
    x = torch.zeros(2, 1, dtype=dtype)
    slope = model.slope
    for step in range(20):
        # A last digit of difference in some of the weights: what rounding leaves of no difference.
        model.slope = slope * (1 + torch.finfo(dtype).eps * torch.tensor([step % 2, 0, 1]))
        optimizer.step(GradientOracle(model, x, x, value))
    assert eps[0][0].norm() > 0
    assert all(torch.equal(e[0], torch.zeros_like(e[0])) for e in eps[1:])
    model.slope = slope * torch.tensor([1, 1, 1.001], dtype=dtype)
    optimizer.step(GradientOracle(model, x, x, value))
    assert eps[-1][0].norm().item() == pytest.approx(optimizer.rho, rel=1e-5)


@pytest.mark.parametrize("name", ["friendly_sam", "vasso", "unified_sam", "stable_sam"])
def test_a_zero_gradient_is_no_perturbation(name):
    model = Quadratic(0.0, 0.0)
    optimizer = make(name, model)
    eps = perturbations(optimizer)
    on_q(optimizer, model, 2)
    assert all(torch.equal(e[0], torch.zeros_like(e[0])) for e in eps)
    assert torch.equal(model.weight, torch.zeros_like(model.weight))


# WSAM.


def test_wsam_decoupled_leaves_the_base_its_momentum():
    """The base must see g only: its momentum is SGD's after the first step, SAM's is not."""
    ends = {}
    for name, knobs in (("wsam", {"gamma": 0.9}), ("sgd", {}), ("sam", {})):
        model = seeded(plain_net)
        optimizer = make(name, model, "sgd", **knobs)
        train(optimizer, model, batches(1))
        ends[name] = flat([s["momentum_buffer"] for s in optimizer.base.state.values()])
    assert torch.equal(ends["wsam"], ends["sgd"])
    assert not torch.equal(ends["wsam"], ends["sam"])


def test_wsam_takes_each_groups_learning_rate():
    model = seeded(plain_net)
    before = [p.detach().clone() for p in model.parameters()]
    groups = [
        {"params": list(model[0].parameters()), "lr": 0.0},
        {"params": list(model[2].parameters()), "lr": 0.1},
    ]
    train(WSAM(torch.optim.SGD(groups, lr=1.0)), model, batches(1))
    same = [torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)]
    assert same == [True, True, False, False]


@pytest.mark.parametrize("m", [0, 5])
def test_clip_bounds_each_part_of_decoupled_wsam(m):
    lr, clip, model = 0.1, 1e-3, seeded(plain_net)
    before = problems.weights(model)
    optimizer = WSAM(torch.optim.SGD(model.parameters(), lr=lr), clip=clip, m=m)
    at_base = []
    optimizer.base.register_step_post_hook(lambda *_: at_base.append(problems.weights(model)))
    train(optimizer, model, batches(1))
    close((at_base[0] - before).norm(), lr * clip)
    close((problems.weights(model) - at_base[0]).norm(), lr * clip)


@pytest.mark.parametrize("name", ["wsam", "lookbehind_sam"])
def test_what_comes_beside_the_direction_is_averaged_over_chunks(name):
    """Chunks of one sample, where the net has no BatchNorm, differ; equal samples do not."""
    [(x, y)] = batches(1)
    same = (x[:1].expand(16, -1).clone(), y[:1].expand(16).clone())
    for data, equal in ((same, True), ((x, y), False)):
        ends = []
        for m in (0, 5):
            model = seeded(plain_net)
            train(make(name, model, m=m, rho=0.3), model, [data] * 2)
            ends.append(problems.weights(model))
        assert torch.allclose(*ends, rtol=1e-10, atol=1e-12) == equal


@pytest.mark.parametrize("name", ["wsam", "lookbehind_sam"])
def test_steps_between_intervals_are_the_bases(name):
    model, plain = seeded(plain_net), seeded(plain_net)
    train(make(name, model, interval=3), model, batches(2))
    train(make("sgd", plain), plain, batches(2))
    assert torch.equal(problems.weights(model), problems.weights(plain))


# Stable SAM and Unified SAM.


def test_stable_sam_is_sam_at_the_length_of_the_gradient():
    [(x, y)] = batches(1)
    found = []
    for name in ("stable_sam", "sam"):
        model = seeded(plain_net)
        g = gradients(model, x, y)
        optimizer = make(name, model, rho=0.3)
        seen = descents(optimizer)
        train(optimizer, model, [(x, y)])
        found.append(flat(seen[0]))
    stable, sam = found
    close(stable.norm(), g.norm(), rtol=1e-12)
    close(stable / stable.norm(), sam / sam.norm(), rtol=1e-9)
    assert abs(sam.norm() - g.norm()) > 1e-3 * g.norm()


@pytest.mark.parametrize("params", ["norm", "no_norm"])
def test_stable_sam_has_the_length_of_the_whole_gradient_whatever_it_perturbs(params):
    [(x, y)] = batches(1)
    g = gradients(seeded(norm_net), x, y)
    model = seeded(norm_net)
    optimizer = make("stable_sam", model, rho=0.3, params=params)
    seen = descents(optimizer)
    train(optimizer, model, [(x, y)])
    close(flat(seen[0]).norm(), g.norm(), rtol=1e-12)


def test_unnormalised_sam_perturbs_by_the_gradient_itself():
    model = seeded(plain_net)
    [(x, y)] = batches(1)
    g = gradients(model, x, y)
    optimizer = make("unified_sam", model, rho=0.3, lambda_=0)
    eps = perturbations(optimizer)
    train(optimizer, model, [(x, y)])
    close(flat(eps[0]), 0.3 * g, rtol=1e-9)


# CR-SAM, GAM, Lookbehind-SAM.


def test_cr_sam_looks_both_ways():
    model = seeded(plain_net)
    optimizer = make("cr_sam", model, rho=0.3)
    eps = perturbations(optimizer)
    results = train(optimizer, model, batches(1))
    assert torch.equal(flat(eps[0]), -flat(eps[1]))
    assert (results[0].forward_samples, results[0].backward_samples) == (48, 48)


def test_gam_climbs_along_the_change_of_the_gradient():
    model = seeded(plain_net)
    [(x, y)] = batches(1)
    before = seeded(plain_net)
    optimizer = make("gam", model, grad_rho=0.1, grad_norm_rho=0.4)
    eps = perturbations(optimizer)
    train(optimizer, model, [(x, y)])
    g0 = gradients(before, x, y)
    close(flat(eps[0]), 0.1 * g0 / g0.norm(), rtol=1e-9)
    rise = gradients(moved(before, eps[0]), x, y) - g0
    close(flat(eps[1]), 0.4 * rise / rise.norm(), rtol=1e-8)
    g2 = gradients(moved(before, eps[1]), x, y)
    close(flat(eps[2]), 0.1 * g2 / g2.norm(), rtol=1e-8)


def test_lookbehind_climbs_in_steps_of_rho():
    model = seeded(plain_net)
    [(x, y)] = batches(1)
    here = seeded(plain_net)
    optimizer = make("lookbehind_sam", model, k=3, rho=0.2)
    eps = perturbations(optimizer)
    train(optimizer, model, [(x, y)])
    for e in eps:
        g = gradients(here, x, y)
        close(flat(e), 0.2 * g / g.norm(), rtol=1e-8)
        here = moved(here, e)
    assert len(eps) == 3


def test_lookbehind_at_alpha_zero_stays():
    model = seeded(plain_net)
    before = problems.weights(model)
    train(make("lookbehind_sam", model, alpha=0), model, batches(3))
    assert torch.equal(problems.weights(model), before)
