"""The perturbations of SAM and ASAM: values from their papers' equations, and invariances."""

from __future__ import annotations

import problems
import pytest
import torch
from problems import (
    Quadratic,
    Zoo,
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

from samtune.optimizers import ASAM, SAM, VARIANTS, GradientOracle

UNNORMALISED = {"fisher_sam", "unified_sam", "momentum_sam", "gam"}
"""Perturb further where the gradient is larger, by their equations; or by no gradient at all."""

# Values on Q: rho 0.5, lr 0.1.


@pytest.mark.parametrize(
    ("variant", "knobs", "eps", "w"),
    [
        (SAM, {}, (0.3, 0.4), (2.67, 0.44)),
        (
            ASAM,
            {"eta": 0},
            (1.370717322930386, 0.203069233026724),
            (2.562928267706961, 0.518772306789310),
        ),
        (
            ASAM,
            {"eta": 0.01},
            (1.373776544921395, 0.206236053829327),
            (2.562622345507861, 0.517505578468269),
        ),
    ],
)
def test_first_step_on_q(variant, knobs, eps, w):
    model = Quadratic()
    optimizer = variant(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, **knobs)
    seen = perturbations(optimizer)
    on_q(optimizer, model)
    close(seen[0][0], eps)
    close(model.weight, w)


def test_second_sam_step_on_q():
    model = Quadratic()
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5)
    seen = perturbations(optimizer)
    on_q(optimizer, model, 2)
    close(seen[1][0], (0.417462773738086, 0.275181453849825))
    close(model.weight, (2.361253722626191, 0.153927418460070))


def test_sam_with_momentum_and_decay_on_q():
    model = Quadratic()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    optimizer = SAM(base, rho=0.5)
    on_q(optimizer, model)
    close(model.weight, (2.667, 0.439))
    on_q(optimizer, model)
    close(model.weight, (2.056172176370899, -0.351923261406376))


def test_one_dimensional_perturbation_is_the_sign():
    for start in (3.0, -0.2):
        model = Quadratic(start)
        optimizer = make("sam", model, rho=0.5)
        seen = perturbations(optimizer)
        on_q(optimizer, model)
        close(seen[0][0], [0.5 if start > 0 else -0.5])


def test_a_zero_gradient_is_not_perturbed():
    model = Quadratic(0.0, 0.0)
    for variant in (SAM, ASAM):
        optimizer = variant(torch.optim.SGD(model.parameters(), lr=0.1))
        seen = perturbations(optimizer)
        on_q(optimizer, model)
        assert torch.equal(seen[0][0], torch.zeros(2, dtype=torch.float64))
        assert torch.equal(model.weight, torch.zeros(2, dtype=torch.float64))


# Properties of the perturbation.


def test_sam_perturbs_by_rho():
    model = seeded(Zoo)
    optimizer = make("sam", model, rho=0.3)
    seen = perturbations(optimizer)
    train(optimizer, model, batches(3))
    for eps in seen:
        close(sum((e**2).sum() for e in eps if e is not None).sqrt(), 0.3, rtol=1e-11)


@pytest.mark.parametrize("normalize_bias", ["official", "all"])
def test_asam_perturbs_by_rho_relative_to_the_weights(normalize_bias):
    model = seeded(Zoo)
    optimizer = make("asam", model, rho=0.7, eta=0.01, normalize_bias=normalize_bias)
    T = {
        n: p.detach().abs() + 0.01
        if normalize_bias == "all" or "weight" in n
        else torch.ones_like(p)
        for n, p in model.named_parameters()
    }
    seen = perturbations(optimizer)
    train(optimizer, model, batches(1))
    square = sum(
        ((e / t) ** 2).sum() for e, t in zip(seen[0], T.values(), strict=True) if e is not None
    )
    close(square.sqrt(), 0.7, rtol=1e-11)


@pytest.mark.parametrize("name", [n for n in problems.PERTURBING if n not in UNNORMALISED])
def test_the_scale_of_the_loss_does_not_matter(name):
    found = []
    for scale in (1.0, 1000.0):
        model = Quadratic()
        optimizer = make(name, model, **{VARIANTS[name].radius_knob: 0.5})
        found.append(perturbations(optimizer))
        on_q(optimizer, model, scale=scale)
    close(found[1][0][0], found[0][0][0])


def test_asam_of_equal_weights_is_sam():
    def net():
        model = plain_net()
        for p in model.parameters():
            p.data = 0.25 * torch.sign(torch.randn_like(p))
        return model

    asam, sam = seeded(net), seeded(net)
    train(make("asam", asam, rho=0.5, eta=0, normalize_bias="all"), asam, batches(1))
    train(make("sam", sam, rho=0.25 * 0.5), sam, batches(1))
    close(problems.weights(asam), problems.weights(sam))


def test_asam_without_weights_is_sam():
    class Nameless(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(6, 3))

        def forward(self, x):
            return x @ self.matrix

    asam, sam = seeded(Nameless), seeded(Nameless)
    train(make("asam", asam, rho=0.2), asam, batches(3))
    train(make("sam", sam, rho=0.2), sam, batches(3))
    assert torch.equal(asam.matrix, sam.matrix)


def sharpness(optimizer_name: str, c: float, **knobs) -> float:
    """L(w + eps) - L(w) of a two-layer ReLU net with its layers scaled by c and 1/c."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    net.double()
    net[0].weight.data.mul_(c)
    net[2].weight.data.div_(c)
    losses = []
    [(x, y)] = batches(1)

    def recording(outputs, targets):
        each = loss_fn(outputs, targets)
        losses.append(each.mean().item())
        return each

    make(optimizer_name, net, **knobs).step(GradientOracle(net, x, y, recording))
    return losses[1] - losses[0]


def test_asam_is_invariant_to_rescaling_and_the_others_are_not():
    plain = sharpness("asam", 1.0, rho=0.5, eta=0)
    for c in (10.0, 0.1):
        assert sharpness("asam", c, rho=0.5, eta=0) == pytest.approx(plain, rel=1e-10)
        assert sharpness("asam", c, rho=0.5, eta=0.01) != pytest.approx(plain, rel=1e-3)
        assert sharpness("sam", c, rho=0.5) != pytest.approx(
            sharpness("sam", 1.0, rho=0.5), rel=0.5
        )
