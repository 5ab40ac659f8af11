"""Knobs of every perturbing variant (m, interval, params, schedules), and its bases."""

from __future__ import annotations

import copy
import math

import problems
import pytest
import torch
from problems import (
    Quadratic,
    batches,
    loss_fn,
    make,
    norm_net,
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
    GradientOracle,
    LookSAM,
    TwoPass,
    base_of,
)
from samtune.optimizers.tensors import moved
from samtune.optimizers.two_pass import Sharpened

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


@pytest.mark.parametrize(
    "base", [*BASES, "torch.optim.NAdam", "torch.optim.ASGD", "torch.optim.Adafactor"]
)
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
        made = base_of(VARIANTS[name], base)
        settings = {name: settings[name] for name in made.knobs.keys() & settings}
        return net, VARIANTS[name](made.build(net.parameters(), **settings), **knobs)

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
    """The step equals one with the others frozen: norms, layers and draws are of those named."""
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


def test_params_may_change_between_steps():
    model = seeded(norm_net)
    variant = make("sam", model)
    seen = perturbations(variant)
    for params in ("norm", "no_norm", "all"):
        variant.params = params
        train(variant, model, batches(1))
    found = [{i for i, e in enumerate(eps) if e is not None} for eps in seen]
    assert found == [{1, 2}, {0, 3, 4}, {0, 1, 2, 3, 4}]


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


# Bases.


@pytest.mark.parametrize(
    "build",
    [
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
        lambda p: torch.optim.AdamW(p, lr=1e-3),
        lambda p: torch.optim.Adamax(p, lr=1e-3),
        *(base.build for base in BASES.values()),
        *(base_of(SAM, f"torch.optim.{name}").build for name in ("NAdam", "ASGD", "Rprop")),
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


def test_the_second_weights_lie_in_memory_as_the_first_ones_do():
    """GPU defect 14. In the gradient's layout they would need a second compiled graph."""
    w = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    for factor in (0.5, torch.tensor(0.5), (1.0, [torch.tensor(0.5)])):
        d = torch.randn(4, 3, 5, 5)
        expected = w + 0.5 * d
        [second] = moved([w], [d], factor, keep=False)
        assert second.stride() == w.stride()
        torch.testing.assert_close(second, expected)


def test_a_variant_of_ones_own_is_told_which_method_it_lacks():
    class Half(TwoPass):
        name = "half"

    model = seeded(plain_net)
    half = Half(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(TypeError, match=r"Half does not say .* `ascent\(self, g, oracle\)`"):
        train(half, model, batches(1))
