"""The perturbations of SAM and ASAM: values from their papers' equations, and invariances."""

from __future__ import annotations

import math

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

from samtune.optimizers import ASAM, SAM, VARIANTS, BayesianSAM, GradientOracle, tensors

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


# Weights in channels_last: random draws lie in memory as these do.


def convolution(layout: torch.memory_format) -> nn.Module:
    layers = nn.Conv2d(2, 32, 2, padding=1), nn.Flatten(), nn.Linear(256, 3)
    return seeded(lambda: nn.Sequential(nn.Unflatten(1, (2, 3, 1)), *layers)).to(
        memory_format=layout
    )


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("esam", {"beta": 0.6}),
        ("sparse_sam", {"sparsity": 0.4, "update_freq": 1, "drop_rate": 1.0}),
    ],
)
def test_what_a_mask_leaves_belongs_to_its_weight(name, knobs):
    model = convolution(torch.channels_last)
    variant = make(name, model, rho=0.3, **knobs)
    seen = perturbations(variant)
    before = None
    for x, y in batches(4):
        g = torch.autograd.grad(loss_fn(model(x), y).mean(), variant.parameters)
        variant.step(GradientOracle(model, x, y, loss_fn))
        g, eps = (torch.cat([t.flatten() for t in each]) for each in (g, seen.pop()))
        kept = eps != 0
        close(eps[kept], (0.3 / knobs.get("beta", 1.0) * g / g.norm())[kept], rtol=1e-9)
        if name == "esam":
            assert 0.5 < kept.double().mean() < 0.7
            continue
        assert (~kept).sum() == math.ceil(0.4 * len(g))
        if before is not None:
            dropped, stayed = g[before & ~kept].abs(), g[before & kept].abs()
            assert 0 < len(dropped) < len(stayed) * 3 and dropped.max() <= stayed.min()
        before = kept


def test_noise_is_the_same_in_any_layout_but_for_its_order():
    draws = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = convolution(layout)
        variant = BayesianSAM(model.parameters(), n_data=1, s_init=4.0)
        noise = variant.noise([torch.full_like(p, 2.0) for p in model.parameters()])
        assert [n.stride() for n in noise] == [p.stride() for p in model.parameters()]
        draws.append(noise)
    for one, other in zip(*draws, strict=True):
        assert torch.equal(one.flatten().sort().values, other.flatten().sort().values)
    assert not torch.equal(draws[0][0], draws[1][0])


@pytest.mark.parametrize("dtypes", [(torch.float64,), (torch.float32, torch.bfloat16)])
def test_a_norm_and_that_of_a_part_are_two_norms(dtypes):
    sizes = 7, tensors.PART + 5, 3
    whole = [torch.randn(n).to(dtypes[i % len(dtypes)]) for i, n in enumerate(sizes)]
    whole.insert(1, None)
    for part in (whole, [*whole[:2], None, whole[3]], [None] * 4):
        found = tensors.norms_with_part(whole, part)
        assert torch.equal(found[0], tensors.global_norm(whole))
        torch.testing.assert_close(found[1], tensors.global_norm(part), check_dtype=False)
    assert [n.item() for n in tensors.norms_with_part([None], [None])] == [0, 0]


def test_a_long_transposed_matrix_is_taken_in_pieces_too():
    matrix = torch.randn(1100, 600).t()
    assert matrix.numel() > tensors.PART
    pieces = tensors.parts(matrix)
    assert torch.equal(torch.cat(list(pieces), 1), matrix)
    assert all(piece.numel() <= tensors.PART for piece in pieces) and len(pieces) == 3
