"""The further variants: values from their equations, reductions, limits and invariants."""

from __future__ import annotations

from pathlib import Path

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
    value,
)
from torch import Tensor, nn

from samtune.optimizers import (
    CRSAM,
    GSAM,
    VARIANTS,
    WSAM,
    FisherSAM,
    FriendlySAM,
    GradientOracle,
    MomentumSAM,
    StableSAM,
    UnifiedSAM,
    Variant,
    VaSSO,
)
from samtune.optimizers.__main__ import ABOUT, document


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
    """A copy of the model at w + eps."""
    other = seeded(plain_net)
    for p, w, e in zip(other.parameters(), model.parameters(), eps, strict=True):
        p.data = w.detach() + e
    return other


# The page about them.


def test_the_page_is_what_the_code_prints():
    assert set(ABOUT) == set(VARIANTS)
    page = Path(__file__).parent.parent / "docs" / "variants.md"
    assert page.read_text() == document(), "python -m samtune.optimizers > docs/variants.md"


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


def q(variant: type[Variant], momentum: float = 0.0, **knobs: object) -> tuple[Variant, Quadratic]:
    model = Quadratic()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    return variant(base, **knobs), model


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
    close(optimizer.state["mean"][0], (2.967, 3.776))


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
        (0.5, None, 0.25),
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
    """m first, then v = g - sigma m with the new m, is the code's order with another sigma."""
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


# Momentum-SAM.


@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_momentum_sam_looks_against_the_momentum(base):
    model = seeded(Zoo)
    optimizer = make("momentum_sam", model, base, rho=0.7)
    eps = perturbations(optimizer)
    train(optimizer, model, batches(1))
    assert not eps
    key = "momentum_buffer" if base == "sgd" else "exp_avg"
    v = [optimizer.base.state.get(p, {}).get(key) for p in optimizer.parameters]
    v = [None if t is None else t.clone() for t in v]
    results = train(optimizer, model, batches(2)[1:])
    close(flat(eps[0]), -0.7 * flat(v) / flat(v).norm(), rtol=1e-9)
    assert (results[0].forward_samples, results[0].backward_samples) == (16, 16)


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


def test_unnormalised_sam_perturbs_by_the_gradient_itself():
    model = seeded(plain_net)
    [(x, y)] = batches(1)
    g = gradients(model, x, y)
    optimizer = make("unified_sam", model, rho=0.3, lambda_=0)
    eps = perturbations(optimizer)
    train(optimizer, model, [(x, y)])
    close(flat(eps[0]), 0.3 * g, rtol=1e-9)


# AE-SAM.


def test_ae_sam_decides_by_the_gradients_history():
    optimizer, model = q(VARIANTS["ae_sam"], rho=0.5, delta=0.5, lambda_1=1.0, lambda_2=1.0)
    eps = perturbations(optimizer)
    mu = variance = 0.0
    used = []
    for w in ((3.0, 1.0), (0.3, 0.1), (3.0, 1.0), (0.2, 0.2), (9.0, 3.0)):
        model.weight.data = torch.tensor(w, dtype=torch.float64)
        n = w[0] ** 2 + (4 * w[1]) ** 2
        mu = 0.5 * mu + 0.5 * n
        variance = 0.5 * variance + 0.5 * (n - mu) ** 2
        count = len(eps)
        on_q(optimizer, model)
        used.append(len(eps) > count)
        assert used[-1] == (n >= mu + variance**0.5)
    assert used == [True, False, True, False, True]
    assert optimizer.state["mu"] == pytest.approx(mu, rel=1e-12)
    assert optimizer.state["variance"] == pytest.approx(variance, rel=1e-12)


def test_ae_sam_turns_to_sam_as_training_goes_on():
    counts = []
    for progress in (0.0, 1.0):
        model = seeded(plain_net)
        optimizer = make("ae_sam", model)
        forward = 0
        for x, y in batches(60):
            optimizer.set_progress(progress)
            forward += optimizer.step(GradientOracle(model, x, y, loss_fn)).forward_samples
        counts.append(forward / (60 * 16))
    assert 1 < counts[0] < 1.5 < counts[1] < 2


def test_ae_sam_is_asked_in_each_interval():
    model = seeded(plain_net)
    optimizer = make("ae_sam", model, interval=3, lambda_1=-100.0, lambda_2=-100.0)
    results = train(optimizer, model, batches(6))
    assert [r.forward_samples // 16 for r in results] == [1, 1, 2, 1, 1, 2]
    assert optimizer.passes == pytest.approx((1 + 0.5 / 3, 1 + 0.5 / 3))


# Sparse SAM.


def test_sparse_sam_perturbs_its_share_at_sams_length():
    model, dense = seeded(plain_net), seeded(plain_net)
    [(x, y)] = batches(1)
    optimizer, sam = make("sparse_sam", model, rho=0.3, sparsity=0.75), make("sam", dense, rho=0.3)
    eps, whole = perturbations(optimizer), perturbations(sam)
    train(optimizer, model, [(x, y)])
    train(sam, dense, [(x, y)])
    on = flat(eps[0]) != 0
    assert on.sum() == on.numel() - -(-on.numel() * 3 // 4)
    # Not renormalised: the norm is over all of g.
    close(flat(eps[0])[on], flat(whole[0])[on], rtol=1e-12)


def test_sparse_sam_replaces_the_smallest_gradients():
    model = seeded(plain_net)
    data = batches(4)
    optimizer = make("sparse_sam", model, rho=0.3, sparsity=0.5, drop_rate=0.4, update_freq=2)
    masks, gs = [], []
    for i, batch in enumerate(data):
        gs.append(gradients(model, *batch))
        train(optimizer, model, [batch], i, of=4)
        masks.append(flat(optimizer.state["mask"]) > 0)
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[2], masks[3])
    old, new, g = masks[1], masks[2], gs[2].abs()
    live = int(old.sum())
    # By the cosine at half of the training: half of 0.4.
    replaced = int(live * 0.2)
    assert int((old & ~new).sum()) == int((new & ~old).sum()) == replaced > 0
    assert g[old & ~new].max() <= g[old & new].min()


def test_sparse_sam_leaves_the_global_generator_alone():
    states = []
    for name in ("sparse_sam", "sam"):
        torch.manual_seed(3)
        model = seeded(plain_net)
        train(make(name, model), model, batches(2))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


# CR-SAM, GAM, K-SAM, Lookbehind-SAM.


def test_cr_sam_looks_both_ways():
    model = seeded(plain_net)
    optimizer = make("cr_sam", model, rho=0.3)
    eps = perturbations(optimizer)
    results = train(optimizer, model, batches(1))
    assert torch.equal(flat(eps[0]), -flat(eps[1]))
    assert (results[0].forward_samples, results[0].backward_samples) == (48, 48)


@pytest.mark.parametrize(
    ("name", "knobs", "forward", "backward"),
    [
        ("cr_sam", {}, 3, 3),
        ("cr_sam", {"gamma": 0, "beta": 0}, 2, 2),
        ("cr_sam", {"gamma": 0}, 3, 3),
        ("gam", {}, 4, 4),
        ("k_sam", {"kept": 0.25}, 1.5, 0.5),
        ("k_sam", {"kept": 1}, 2, 2),
        ("lookbehind_sam", {"k": 1}, 2, 2),
        ("lookbehind_sam", {"k": 4}, 5, 5),
        ("momentum_sam", {}, 1, 1),
    ],
)
def test_costs(name, knobs, forward, backward):
    model = seeded(plain_net)
    optimizer = make(name, model, **knobs)
    [result] = train(optimizer, model, batches(1))
    assert (result.forward_samples, result.backward_samples) == (16 * forward, 16 * backward)
    assert optimizer.passes == (forward, backward)


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


@pytest.mark.parametrize(("size", "kept", "count"), [(16, 0.25, 4), (5, 0.5, 3), (3, 0.0, 1)])
def test_k_sam_learns_from_the_largest_losses(size, kept, count):
    [(x, y)] = batches(1, size=size)
    model, only = seeded(plain_net), seeded(plain_net)
    largest = loss_fn(model(x), y).argsort(descending=True)[:count]
    train(make("k_sam", model, kept=kept, rho=0.2), model, [(x, y)])
    train(make("sam", only, rho=0.2), only, [(x[largest], y[largest])])
    close(problems.weights(model), problems.weights(only), rtol=1e-9)


def test_k_sam_takes_its_number_from_equal_losses():
    model = seeded(plain_net)
    x, y = torch.ones(8, 6, dtype=torch.float64), torch.zeros(8, dtype=torch.int64)
    [result] = train(make("k_sam", model, kept=0.5), model, [(x, y)])
    assert result.backward_samples == 8 and len(result.outputs) == 8


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
