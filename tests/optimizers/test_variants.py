"""The further variants: the page about them, their values by hand, and their reductions."""

from __future__ import annotations

import problems
import pytest
import torch
from problems import (
    Zoo,
    batches,
    close,
    descents,
    make,
    on_q,
    perturbations,
    plain_net,
    q,
    seeded,
    train,
)
from torch import Tensor

from docs.make_variants import ABOUT
from samtune.optimizers import (
    CRSAM,
    GSAM,
    VARIANTS,
    WSAM,
    FisherSAM,
    FriendlySAM,
    MomentumSAM,
    StableSAM,
    UnifiedSAM,
    VaSSO,
)

# The page about them.


def test_the_page_has_every_variant():
    assert set(ABOUT) == set(VARIANTS)


# Values on Q: rho 0.5, lr 0.1.

DIRECTIONS = {
    "gsam": (
        GSAM,
        {"rho_max": 0.5, "alpha": 0.4},
        (3.109136094674556, 5.712473372781065),
        (2.689086390532545, 0.428752662721894),
    ),
    "wsam": (WSAM, {"rho": 0.5, "decouple": False}, (5.7, 18.4), (2.43, -0.84)),
    "stable_sam": (
        StableSAM,
        {"rho": 0.5},
        (2.538461538461539, 4.307692307692308),
        (2.746153846153846, 0.569230769230769),
    ),
    "cr_sam": (
        CRSAM,
        {"rho": 0.5, "gamma": 0.1, "beta": 0.01},
        (3.306, 5.632),
        (2.6694, 0.4368),
    ),
}

PERTURBATIONS = {
    "fisher_sam": (
        FisherSAM,
        {"rho": 0.1, "eta": 1},
        (0.022109226385693, 0.017340569714269),
        (2.697789077361431, 0.593063772114293),
    ),
    "unified_sam": (UnifiedSAM, {"rho": 0.5, "lambda_": 0.5}, (0.9, 1.2), (2.61, 0.12)),
    "gsam": (GSAM, {"rho_max": 0.5, "alpha": 0}, (0.3, 0.4), (2.67, 0.44)),
    "friendly_sam": (FriendlySAM, {"rho": 0.5}, (0.3, 0.4), (2.67, 0.44)),
    "vasso": (VaSSO, {"rho": 0.5, "theta": 0.4}, (0.3, 0.4), (2.67, 0.44)),
}


@pytest.mark.parametrize(("variant", "knobs", "d", "w"), DIRECTIONS.values(), ids=DIRECTIONS)
def test_directions_on_q(variant, knobs, d, w):
    optimizer, model = q(variant, **knobs)
    seen = descents(optimizer)
    on_q(optimizer, model)
    close(seen[0][0], d)
    close(model.weight, w)


@pytest.mark.parametrize(
    ("variant", "knobs", "eps", "w"), PERTURBATIONS.values(), ids=PERTURBATIONS
)
def test_perturbations_on_q(variant, knobs, eps, w):
    optimizer, model = q(variant, **knobs)
    seen = perturbations(optimizer)
    on_q(optimizer, model)
    close(seen[0][0], eps)
    close(model.weight, w)


def test_fisher_on_q_with_less_fisher():
    optimizer, model = q(FisherSAM, rho=0.05, eta=0.2)
    seen = perturbations(optimizer)
    on_q(optimizer, model)
    close(seen[0][0], (0.020213748827135, 0.017967776735231))


def test_friendly_second_step_on_q():
    optimizer, model = q(FriendlySAM, rho=0.5, sigma=1, lambda_=0.9)
    seen = perturbations(optimizer)
    on_q(optimizer, model, 2)
    close(seen[1][0], (-0.072874143480812, -0.494660852718242))
    close(model.weight, (2.410287414348081, 0.461864341087297))
    close(optimizer.memory["mean"][0], (2.967, 3.776))


def test_vasso_second_step_on_q():
    optimizer, model = q(VaSSO, rho=0.5, theta=0.4)
    seen = perturbations(optimizer)
    on_q(optimizer, model, 2)
    close(seen[1][0], (0.339316912071761, 0.367238387402631))
    close(model.weight, (2.369068308792824, 0.117104645038948))


def test_momentum_sam_on_q():
    optimizer, model = q(MomentumSAM, momentum=0.9, rho=0.5)
    points = []
    forward = model.forward
    model.forward = lambda x: (points.append(model.weight.detach().clone()), forward(x))[1]
    for w in ((2.7, 0.6), (2.19, 0.16), (1.549857836458959, -0.169353348690650)):
        on_q(optimizer, model)
        close(model.weight, w)
    close(points[0], (3, 1))
    close(points[1], (2.4, 0.2))


def test_wsam_decoupled_is_coupled_on_plain_sgd():
    optimizer, model = q(WSAM, rho=0.5, gamma=0.9)
    on_q(optimizer, model)
    close(model.weight, (2.43, -0.84))


def test_lookbehind_on_q():
    # By hand: from (3, 1) up to (3.3, 1.4) and (3.553846..., 1.830769...), gradients (3.3, 5.6)
    # and (3.5539..., 7.3231...), two steps down from (3, 1), and half of the way back.
    norm = (3.3**2 + 5.6**2) ** 0.5
    second = (3.3 + 0.5 * 3.3 / norm, 4 * (1.4 + 0.5 * 5.6 / norm))
    expected = (3 - 0.05 * (3.3 + second[0]), 1 - 0.05 * (5.6 + second[1]))
    optimizer, model = q(VARIANTS["lookbehind_sam"], rho=0.5, k=2, alpha=0.5)
    on_q(optimizer, model)
    close(model.weight, expected)


# Reductions.

OFF = {"lambda_1": 1e9, "lambda_2": 1e9}
ON = {"lambda_1": -1e9, "lambda_2": -1e9}

REDUCTIONS = [
    ("gsam", {"alpha": 0, "rho_max": 0.1, "rho_schedule": "constant"}, "sam", {"rho": 0.1}),
    ("gsam", {"alpha": 0, "rho_max": 0.1, "rho_min": 0.1}, "sam", {"rho": 0.1}),
    ("gsam", {"alpha": 0.4, "rho_max": 0, "rho_min": 0}, None, {}),
    ("fisher_sam", {"eta": 0, "rho": 0.1}, "sam", {"rho": 0.1}),
    ("friendly_sam", {"sigma": 0, "rho": 0.1}, "sam", {"rho": 0.1}),
    ("wsam", {"gamma": 0.5, "decouple": False, "rho": 0.1}, "sam", {"rho": 0.1}),
    ("wsam", {"gamma": 0, "decouple": False, "rho": 0.1}, None, {}),
    ("wsam", {"gamma": 0, "rho": 0.1}, None, {}),
    ("vasso", {"theta": 1, "rho": 0.1}, "sam", {"rho": 0.1}),
    ("unified_sam", {"lambda_": 1, "rho": 0.1}, "sam", {"rho": 0.1}),
    ("ae_sam", {"rho": 0.1, **ON}, "sam", {"rho": 0.1}),
    ("ae_sam", {"rho": 0.1, **OFF}, None, {}),
    ("sparse_sam", {"sparsity": 0, "rho": 0.1}, "sam", {"rho": 0.1}),
    ("sparse_sam", {"sparsity": 1, "rho": 0.1}, None, {}),
    ("cr_sam", {"gamma": 0, "beta": 0, "rho": 0.1}, "sam", {"rho": 0.1}),
    ("gam", {"alpha": 1, "gamma": 0, "grad_rho": 0.1}, "sam", {"rho": 0.1}),
    ("k_sam", {"kept": 1, "rho": 0.1}, "sam", {"rho": 0.1}),
    ("lookbehind_sam", {"k": 1, "alpha": 1, "rho": 0.1}, "sam", {"rho": 0.1}),
]


def trained(name: str, base: str, steps: int = 6, **knobs: object) -> Tensor:
    model = seeded(Zoo)
    torch.manual_seed(7)
    train(make(name, model, base, **knobs), model, batches(steps))
    return problems.weights(model)


@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize(("name", "knobs", "other", "others"), REDUCTIONS)
def test_reductions_are_bitwise(name, knobs, other, others, base):
    assert torch.equal(trained(name, base, **knobs), trained(other or base, base, **others))


@pytest.mark.parametrize("name", ["friendly_sam", "vasso"])
def test_the_first_step_is_sam(name):
    first = trained(name, "sgd", 1, rho=0.1)
    assert torch.equal(first, trained("sam", "sgd", 1, rho=0.1))
    assert not torch.equal(trained(name, "sgd", 2, rho=0.1), trained("sam", "sgd", 2, rho=0.1))


def test_momentum_sam_without_momentum_and_in_its_first_step_is_sgd():
    assert torch.equal(trained("momentum_sam", "sgd", 1), trained("sgd", "sgd", 1))
    assert not torch.equal(trained("momentum_sam", "sgd", 2), trained("sgd", "sgd", 2))
    ends = []
    for name in ("momentum_sam", "sgd"):
        model = seeded(plain_net)
        optimizer = VARIANTS[name](torch.optim.SGD(model.parameters(), lr=0.1))
        train(optimizer, model, batches(3))
        ends.append(problems.weights(model))
    assert torch.equal(*ends)


DIFFERENT = [
    ("gsam", {"rho_max": 0.1, "rho_schedule": "constant"}),
    ("gsam", {"rho_max": 0.1, "alpha": 0}),
    ("fisher_sam", {"rho": 0.1, "eta": 1e3}),
    ("friendly_sam", {"rho": 0.1}),
    ("wsam", {"rho": 0.1}),
    ("wsam", {"rho": 0.1, "gamma": 0.5}),
    ("momentum_sam", {"rho": 0.1}),
    ("vasso", {"rho": 0.1}),
    ("stable_sam", {"rho": 0.1}),
    ("unified_sam", {"rho": 0.1}),
    ("ae_sam", {"rho": 0.1, "lambda_1": 3, "lambda_2": 3}),
    ("sparse_sam", {"rho": 0.1}),
    ("cr_sam", {"rho": 0.1}),
    ("gam", {"grad_rho": 0.1}),
    ("k_sam", {"rho": 0.1}),
    ("lookbehind_sam", {"rho": 0.1}),
    ("lookbehind_sam", {"rho": 0.1, "alpha": 1}),
]


@pytest.mark.parametrize(("name", "knobs"), DIFFERENT)
def test_it_is_neither_sam_nor_the_base(name, knobs):
    found = trained(name, "sgd", **knobs)
    for other, others in (("sam", {"rho": 0.1}), ("sgd", {})):
        plain = trained(other, "sgd", **others)
        assert (found - plain).norm() > 1e-6 * plain.norm()
