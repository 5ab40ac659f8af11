"""Every variant agrees with torch, or with the plain reference of its equations."""

from __future__ import annotations

import problems
import pytest
import reference
import reference_more
import torch
from problems import Zoo, batches, loss_fn, make, norm_net, seeded, train
from torch import nn

from samtune.optimizers import BASES, VARIANTS, BayesianSAM

WITH_BASES = [
    (name, base)
    for name in problems.PERTURBING
    for base in ("sgd", "adamw")
    if base in VARIANTS[name].bases
]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_base_variant_is_torch_bitwise(name):
    mine, theirs = seeded(Zoo), seeded(Zoo)
    data = batches(6)
    torch.manual_seed(7)
    train(make(name, mine), mine, data)
    torch.manual_seed(7)
    base = BASES[name].build(theirs.parameters(), **problems.BASE_KNOBS[name])
    for x, y in data:
        base.zero_grad()
        loss_fn(theirs(x), y).mean().backward()
        base.step()
    assert torch.equal(problems.weights(mine), problems.weights(theirs))


@pytest.mark.parametrize(("name", "base"), WITH_BASES)
@pytest.mark.parametrize("net", [norm_net, Zoo])
def test_rho_zero_is_the_base_bitwise(name, base, net):
    data = batches(6)
    ends = []
    zero = {VARIANTS[name].radius_knob: 0, **problems.UNSELECTIVE.get(name, {})}
    for variant, knobs in ((name, zero), (base, {})):
        model = seeded(net)
        torch.manual_seed(7)
        train(make(variant, model, base, **knobs), model, data)
        ends.append(problems.weights(model))
    assert torch.equal(*ends)


TEXTBOOK = {
    "sgd": ({}, lambda: reference.plain),
    "adamw": ({}, lambda: reference.plain),
    "sam": ({"rho": 0.1}, lambda: reference.sam(0.1)),
    "asam": (
        {"rho": 0.5, "eta": 0.01},
        lambda: reference.asam(0.5, 0.01, lambda n: "weight" in n),
    ),
    "asam all": (
        {"rho": 0.4, "eta": 0.0, "normalize_bias": "all"},
        lambda: reference.asam(0.4, 0.0, lambda n: True),
    ),
    "esam": (
        {"rho": 0.1, "beta": 0.6, "gamma": 0.3},
        lambda: reference.esam(0.1, 0.6, 0.3, "element"),
    ),
    "esam tensor": (
        {"rho": 0.1, "beta": 0.5, "gamma": 0.75, "swp_mode": "tensor"},
        lambda: reference.esam(0.1, 0.5, 0.75, "tensor"),
    ),
    "look_sam": (
        {"rho": 0.2, "k": 3, "alpha": 0.4},
        lambda: reference.look_sam(0.2, 3, 0.4),
    ),
    "look_sam auto": (
        {"rho": 0.2, "k": 5, "alpha": "auto"},
        lambda: reference.look_sam(0.2, 5, None),
    ),
    "look_layer_sam": (
        {"rho": 0.05, "k": 2, "alpha": 0.3},
        lambda: reference.look_sam(0.05, 2, 0.3, "lars"),
    ),
    "look_layer_sam global": (
        {"rho": 0.01, "k": 3, "alpha": 0.3, "layer_rule": "global"},
        lambda: reference.look_sam(0.01, 3, 0.3, "global"),
    ),
    **reference_more.TEXTBOOK,
}
"""By case, "variant" or "variant form": the knobs, and what makes its direction by the paper."""


@pytest.mark.parametrize(
    ("case", "base"),
    [(c, b) for c in TEXTBOOK for b in ("sgd", "adamw") if b in VARIANTS[c.split()[0]].bases],
)
def test_textbook_over_100_steps(case, base):
    agree_over_100_steps(case, base, *TEXTBOOK[case])


@pytest.mark.parametrize("case", reference_more.ADAPTIVE)
def test_adaptive_textbook_over_100_steps(case):
    knobs, direction = reference_more.ADAPTIVE[case]
    knobs = {**knobs, "adaptive": True, "eta": 0.02}
    agree_over_100_steps(case, "sgd", knobs, direction, eta=0.02)


def test_every_variant_that_can_be_adaptive_has_a_textbook_for_it():
    able = {name for name, variant in VARIANTS.items() if "adaptive" in variant.knobs()}
    assert {case.split()[0] for case in reference_more.ADAPTIVE} == able


def agree_over_100_steps(case, base, knobs, direction, eta=None):
    data = batches(100) + batches(1, size=5)
    fast, plain = seeded(Zoo), seeded(Zoo)
    start = problems.parameters(fast)

    names = dict(fast.named_parameters())
    decayed = {n: 0.01 for n, p in names.items() if p.ndim > 1}
    groups = [
        {"params": [names[n] for n in decayed], "weight_decay": 0.01},
        {"params": [p for n, p in names.items() if n not in decayed], "weight_decay": 0.0},
    ]
    if base == "sgd":
        settings = {"lr": 0.02, "momentum": 0.9, "nesterov": True}
        textbook = reference.SGD(**settings, weight_decay=decayed)
    else:
        settings = {"lr": 5e-3, "beta1": 0.8, "eps": 1e-6}
        textbook = reference.AdamW(**settings, weight_decay=decayed)
    optimizer = VARIANTS[case.split()[0]](BASES[base].build(groups, **settings), **knobs)

    torch.manual_seed(7)
    train(optimizer, fast, data)
    torch.manual_seed(7)
    reference.train(plain, data, loss_fn, textbook, direction(), eta)

    assert (problems.parameters(plain) - start).norm() > 0.1 * start.norm()
    assert_alike(fast, plain)


def assert_alike(fast: nn.Module, plain: nn.Module) -> None:
    expected = problems.parameters(plain)
    assert (problems.parameters(fast) - expected).norm() <= 1e-12 * expected.norm()
    for mine, theirs in zip(fast.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


def test_bayesian_sam_is_its_textbook_over_100_steps():
    settings = {"lr": 0.02, "rho": 0.05, "prior_precision": 20, "damping": 0.2, "beta1": 0.8}
    settings |= {"beta2": 0.99, "dafactor": 2, "m": 3, "n_data": 300}
    fast, plain = seeded(Zoo), seeded(Zoo)
    trained = [n for n, p in fast.named_parameters() if p.requires_grad]
    data = batches(100) + batches(1, size=7)
    torch.manual_seed(7)
    train(BayesianSAM(fast.parameters(), **settings), fast, data)
    torch.manual_seed(7)
    bayes = reference.Bayes(trained, **settings)
    for x, y in data:
        bayes.step(reference.Batch(plain, x, y, loss_fn))
    start = problems.parameters(seeded(Zoo))
    assert (problems.parameters(plain) - start).norm() > 0.1 * start.norm()
    assert_alike(fast, plain)


def test_every_variant_has_a_textbook():
    assert {case.split()[0] for case in TEXTBOOK} | {"bayesian_sam"} == set(VARIANTS)
