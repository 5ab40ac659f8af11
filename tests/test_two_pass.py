"""Knobs of every perturbing variant (m, interval, params, schedules), and ESAM, LookSAM, bSAM."""

from __future__ import annotations

import copy
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
    norm_net,
    on_q,
    perturbations,
    plain_net,
    poisoned,
    seeded,
    train,
)
from torch import nn

from samtune.optimizers import (
    BASES,
    ESAM,
    SAM,
    VARIANTS,
    BayesianSAM,
    GradientOracle,
    LookLayerSAM,
    LookSAM,
    TwoPass,
)
from samtune.optimizers.two_pass import Sharpened

perturbing = pytest.mark.parametrize("name", problems.PERTURBING)
scheduled = pytest.mark.parametrize("name", problems.SCHEDULED)
chunked = pytest.mark.parametrize(
    "name", [n for n, v in VARIANTS.items() if issubclass(v, Sharpened)]
)
TWO_PASS = {n for n, v in VARIANTS.items() if issubclass(v, TwoPass)}


def end(name: str, count: int = 6, net=norm_net, **knobs: object) -> torch.Tensor:
    model = seeded(net)
    torch.manual_seed(7)
    train(make(name, model, **knobs), model, batches(count))
    return problems.weights(model)


# Reductions, section 7 of the catalogue: bitwise.


@pytest.mark.parametrize(
    ("name", "knobs", "parent", "theirs"),
    [
        ("esam", {"beta": 1, "gamma": 1}, "sam", {}),
        ("esam", {"beta": 1, "gamma": 1, "swp_mode": "tensor"}, "sam", {}),
        ("esam", {"rho": 0, "beta": 0.5, "gamma": 1}, "sgd", {}),
        ("esam", {"rho": 0, "beta": 0.5, "gamma": 1, "swp_mode": "tensor"}, "sgd", {}),
        ("look_sam", {"rho": 0.05, "k": 1}, "sam", {}),
        ("look_sam", {"rho": 0.05, "k": 1, "alpha": 0.2}, "sam", {}),
        ("look_sam", {"rho": 0.05, "k": 1, "alpha": "auto"}, "sam", {}),
        ("look_sam", {"rho": 0, "k": 3, "alpha": 0.7}, "sgd", {}),
        ("look_sam", {"rho": 0, "k": 3, "alpha": "auto"}, "sgd", {}),
        ("look_sam", {"rho": 0, "k": 3, "alpha": 0}, "sgd", {}),
        ("look_layer_sam", {"rho": 0, "k": 3}, "sgd", {}),
        ("sam", {"interval": 100}, "sgd", {}),
    ],
)
@pytest.mark.parametrize("net", [norm_net, problems.Zoo])
def test_reductions(name, knobs, parent, theirs, net):
    assert torch.equal(end(name, net=net, **knobs), end(parent, net=net, **theirs))


@pytest.mark.parametrize(
    ("name", "knobs", "parent"),
    [
        ("look_sam", {"rho": 0.05, "k": 3, "alpha": 0}, "sam"),
        ("esam", {"beta": 1, "gamma": 0.5}, "sam"),
        ("esam", {"beta": 0.5, "gamma": 1}, "sam"),
        ("sam", {"m": 8}, "sam"),
        ("sam", {"interval": 2}, "sam"),
    ],
)
def test_what_must_not_be_equal(name, knobs, parent):
    assert not torch.equal(end(name, **knobs), end(parent))


@chunked
def test_m_of_the_whole_batch_is_the_parent(name):
    assert torch.equal(end(name, m=16), end(name))


@pytest.mark.parametrize("name", ["sam", "asam", "esam", "look_sam"])
def test_m_is_the_mean_over_chunks(name):
    model, parts = seeded(plain_net), seeded(plain_net)
    [(x, y)] = batches(1, size=10)
    whole = make(name, model, m=4)
    d = whole.direction(GradientOracle(model, x, y, loss_fn))
    # Ten samples in chunks of nearly four: 4, 3 and 3.
    expected = [torch.zeros_like(p) for p in parts.parameters()]
    for start, stop in ((0, 4), (4, 7), (7, 10)):
        variant = make(name, parts)
        oracle = GradientOracle(parts, x[start:stop], y[start:stop], loss_fn)
        with torch.no_grad():
            for total, own in zip(expected, variant.direction(oracle), strict=True):
                total += own * (stop - start) / 10
    torch.testing.assert_close(d, expected, rtol=1e-12, atol=1e-15)


def test_chunks_give_the_whole_result():
    model = seeded(plain_net)
    [(x, y)] = batches(1)
    result = make("sam", model, m=5).step(GradientOracle(model, x, y, loss_fn))
    fresh = seeded(plain_net)
    torch.testing.assert_close(result.outputs, fresh(x).detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(result.loss, loss_fn(fresh(x), y).mean().detach())
    assert (result.forward_samples, result.backward_samples) == (32, 32)


@chunked
def test_a_non_finite_chunk_is_skipped_without_a_trace(name):
    forward, _ = problems.passes_of_the_first_step(name)
    for when in (1, forward + 1, 2 * forward):
        model, never = seeded(norm_net), seeded(norm_net)
        variant, other = make(name, model, m=8), make(name, never, m=8)
        train(variant, model, batches(2))
        train(other, never, batches(2))
        [(x, y)] = batches(1, seed=9)
        for poison, skipped in ((poisoned(when), True), (loss_fn, False)):
            oracle = GradientOracle(model, x, y, poison, check_finite=True)
            result = variant.step(oracle)
            assert result.skipped == skipped and len(result.outputs) == 16
        train(other, never, [(x, y)], start=1, of=2)
        variant_end, other_end = problems.weights(model), problems.weights(never)
        assert torch.equal(variant_end, other_end), when


@pytest.mark.parametrize("name", sorted(TWO_PASS - problems.DATA_DEPENDENT))
def test_interval_perturbs_the_last_step_of_each(name):
    model = seeded(norm_net)
    variant = make(name, model, interval=3)
    results = train(variant, model, batches(6))
    one, more = 16, results[2].forward_samples
    assert [r.forward_samples for r in results] == [one, one, more, one, one, more]
    assert more > one
    forward = sum(r.forward_samples for r in results) / (6 * 16)
    assert variant.passes[0] == pytest.approx(forward)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("look_sam", {"k": 4, "alpha": "auto"}),
        ("look_layer_sam", {"k": 4}),
        ("esam", {}),
        ("esam", {"swp_mode": "tensor"}),
        ("sparse_sam", {"update_freq": 3}),
    ],
    ids=lambda given: given if isinstance(given, str) else "-".join(map(str, given)),
)
def test_resume_is_bitwise_at_every_cut(name, knobs, base):
    def fresh():
        net = seeded(norm_net)
        settings = {"lr": 0.01, "weight_decay": 1e-2}
        settings = {name: settings[name] for name in BASES[base].knobs.keys() & settings}
        return net, VARIANTS[name](BASES[base].build(net.parameters(), **settings), **knobs)

    whole, variant = fresh()
    train(variant, whole, batches(6))
    for cut in range(1, 5):
        model, variant = fresh()
        train(variant, model, batches(6)[:cut], of=6)
        saved = copy.deepcopy((model.state_dict(), variant.state_dict()))
        model, variant = fresh()
        model.load_state_dict(saved[0])
        variant.load_state_dict(saved[1])
        train(variant, model, batches(6)[cut:], cut, of=6)
        assert torch.equal(problems.weights(model), problems.weights(whole)), cut


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_interval_and_chunks_resume(cut):
    whole, second = seeded(norm_net), seeded(norm_net)
    knobs = {"interval": 3, "m": 8}
    train(make("vasso", whole, **knobs), whole, batches(6), of=6)
    variant = make("vasso", second, **knobs)
    train(variant, second, batches(6)[:cut], of=6)
    saved, variant = variant.state_dict(), make("vasso", second, **knobs)
    variant.load_state_dict(saved)
    train(variant, second, batches(6)[cut:], cut, of=6)
    assert torch.equal(problems.weights(second), problems.weights(whole))


# The mask.


MASKED = [(n, {}) for n in problems.PERTURBING]
MASKED += [
    ("look_layer_sam", {"layer_rule": "global"}),
    ("esam", {"swp_mode": "tensor"}),
    ("fisher_sam", {"eta": 0.0}),
    ("lookbehind_sam", {"k": 3}),
]
"""LookSAM with the k of the exam, by which the first step is a refresh."""
ALWAYS = {"ae_sam": {"lambda_1": -1e9, "lambda_2": -1e9}}


@pytest.mark.parametrize(("name", "knobs"), MASKED)
@pytest.mark.parametrize("params", ["norm", "no_norm"])
def test_params_perturb_only_what_they_name(name, knobs, params):
    """And as if the others were frozen: norms, layers and random draws are of those named."""
    # Of [linear.weight, norm.weight, norm.bias, linear.weight, linear.bias].
    named = {1, 2} if params == "norm" else {0, 3, 4}
    knobs = {**ALWAYS.get(name, {}), **knobs}
    seen = []
    for freezes in (False, True):
        model = seeded(norm_net)
        variant = make(name, model, params="all" if freezes else params, **knobs)
        if name == "momentum_sam":
            # The step that makes the momentum is the same for both.
            train(variant, model, batches(1))
        if freezes:
            for i, p in enumerate(model.parameters()):
                p.requires_grad_(i in named)
                if i not in named:
                    variant.base.state.pop(p, None)
        seen.append(perturbations(variant))
        train(variant, model, batches(1, seed=2))
    masked, alone = seen
    assert len(masked) == len(alone) >= 1
    for eps, expected in zip(masked, alone, strict=True):
        mine = {i for i, e in enumerate(eps) if e is not None}
        assert mine == {i for i, e in enumerate(expected) if e is not None} <= named
        assert mine == named or name == "esam"
        torch.testing.assert_close(
            [eps[i] for i in mine], [expected[i] for i in mine], rtol=1e-9, atol=1e-14
        )


def test_a_mask_that_leaves_nothing():
    model = seeded(plain_net)
    with pytest.raises(ValueError, match="params is norm, and the model has no such parameter"):
        train(make("sam", model, params="norm"), model, batches(1))


def test_everything_is_norm():
    ends = []
    for params in ("norm", "all"):
        model = seeded(lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 3)))
        model[1].requires_grad_(False)
        train(make("sam", model, params=params), model, batches(3))
        ends.append(problems.weights(model))
    assert torch.equal(*ends)


# Schedules.


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.4, 0.4, 0.4]),
        ("linear", [0.4, 0.325, 0.1]),
        ("cosine", [0.4, 0.1 + 0.3 * (1 + math.cos(math.pi / 4)) / 2, 0.1]),
        ("lr", [0.4, 0.1 + 0.3 * 0.6, 0.1]),
    ],
)
def test_radius_over_time(schedule, expected):
    variant = make("sam", Quadratic(), rho=0.4, rho_min=0.1, rho_schedule=schedule)
    radii = []
    for progress, lr_share in ((0, 1.0), (0.25, 0.6), (1.1, 0.0)):
        variant.set_progress(progress, lr_share)
        radii.append(variant.radius)
    assert radii == pytest.approx(expected)


@scheduled
def test_a_schedule_reaches_the_perturbation(name):
    radius = VARIANTS[name].radius_knob
    ends = []
    for knobs, progress in (({radius: 0.2}, 0), ({radius: 0.3, "rho_min": 0.1}, 0.5)):
        model = seeded(plain_net)
        schedule = "linear" if "rho_min" in knobs else "constant"
        variant = make(name, model, rho_schedule=schedule, **knobs)
        variant.lambda_1 = variant.lambda_2 = -1e9
        for x, y in batches(3):
            variant.set_progress(progress)
            variant.step(GradientOracle(model, x, y, loss_fn))
        ends.append(problems.weights(model))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=0)


# ESAM.


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


# LookSAM.


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
    v = variant.state["v"][0] / variant._length()
    close(v, torch.tensor([-0.8, 0.6]), rtol=1e-7)
    on_q(variant, model)
    close(model.weight, w)


@pytest.mark.parametrize("name", ["look_sam", "look_layer_sam"])
def test_look_sam_without_reuse_is_sam_every_k_th_step(name):
    """By hand: a fresh perturbing step in turn with plain ones, of one base optimizer."""
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


def test_auto_alpha_is_the_share_at_the_refresh():
    model = Quadratic()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    variant = LookSAM(base, rho=0.5, k=2, alpha="auto")
    on_q(variant, model)
    close(variant.state["v"][0].norm() / variant._length(), 0.72 / 5)


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
    v = variant.state["v"][0].double() / variant._length().double()
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
        assert variant._length().isinf() and variant.state["v"][0].isfinite().all()


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


# bSAM.

BAYES = {"n_data": 100, "prior_precision": 10, "damping": 0.1, "lr": 0.5, "rho": 0.5, "m": 1}


@pytest.mark.parametrize(
    ("n", "w", "s"),
    [
        ((0.0, 0.0), (2.76, 0.395), (1.0022, 1.0032)),
        ((1.0, -1.0), (2.7575, 0.435), (1.0023, 1.0028)),
    ],
)
def test_bayesian_sam_on_q(n, w, s):
    model = Quadratic()
    variant = BayesianSAM(model.parameters(), **BAYES)
    variant.noise = lambda _: [torch.tensor(n, dtype=torch.float64) / 10]
    on_q(variant, model)
    close(model.weight, w)
    close(variant.state["s"][0], s)
    if not any(n):
        on_q(variant, model)
        close(model.weight, (2.324309984806525, -0.385473497566956))
        close(variant.state["s"][0], (1.004160834332034, 1.003979325980829))


def test_bayesian_sam_without_noise_is_unnormalised_sam():
    """s = 1 for good: eps = rho g, and a running mean of the gradient descends."""
    model = Quadratic()
    knobs = {**BAYES, "beta2": 1.0, "beta1": 0.0, "prior_precision": 0}
    variant = BayesianSAM(model.parameters(), **knobs)
    variant.noise = lambda _: [torch.zeros(2, dtype=torch.float64)]
    on_q(variant, model)
    # h = A (w + rho A w)
    close(model.weight, (3 - 0.5 * 4.5, 1 - 0.5 * 12))


def test_chunks_of_bayesian_sam_without_noise_and_ascent_are_the_batch():
    ends = []
    for m in (1, 5):
        model = seeded(plain_net)
        variant = make("bayesian_sam", model, m=m, rho=0, beta2=1.0, n_data=10**40)
        train(variant, model, batches(3))
        ends.append(problems.weights(model))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-15)


def test_bayesian_sam_draws_its_own_noise():
    ends = []
    for seed in (0, 0, 1):
        model = seeded(plain_net)
        torch.manual_seed(len(ends))
        before = torch.get_rng_state()
        train(make("bayesian_sam", model, seed=seed), model, batches(2))
        assert torch.equal(torch.get_rng_state(), before)
        ends.append(problems.weights(model))
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_samples_of_the_weights():
    model = seeded(lambda: nn.Linear(100, 100))
    variant = BayesianSAM(model.parameters(), n_data=100, s_init=4)
    before = model.weight.detach().clone()
    draws = []
    for sample in (0, 1, 0):
        with variant.sampled_weights(sample):
            draws.append(model.weight.detach() - before)
    assert torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[1])
    assert draws[0].std().item() == pytest.approx(1 / math.sqrt(100 * 4), rel=0.03)
    assert torch.equal(model.weight, before)


def test_bayesian_sam_needs_data():
    with pytest.raises(ValueError, match="n_data is 0; it counts training samples"):
        BayesianSAM(seeded(plain_net).parameters(), n_data=0)


# Bases.


@pytest.mark.parametrize(
    "build",
    [
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
        lambda p: torch.optim.AdamW(p, lr=1e-3),
        lambda p: torch.optim.Adamax(p, lr=1e-3),
        *(base.build for base in BASES.values()),
    ],
)
def test_any_torch_optimizer_is_a_base(build):
    ends = []
    for variant, knobs in ((SAM, {"rho": 0}), (SAM, {"rho": 0.3}), (LookSAM, {}), (ESAM, {})):
        model = seeded(plain_net)
        train(variant(build(model.parameters()), **knobs), model, batches(4))
        ends.append(problems.weights(model))
    plain = seeded(plain_net)
    base = build(plain.parameters())
    for x, y in batches(4):
        base.zero_grad()
        loss_fn(plain(x), y).mean().backward()
        base.step()
    assert torch.equal(ends[0], problems.weights(plain))
    assert all(not torch.equal(end, ends[0]) and end.isfinite().all() for end in ends[1:])
