"""Tests that every registered variant must pass: its cost, and what it changes or keeps."""

from __future__ import annotations

import copy
import itertools

import problems
import pytest
import torch
from problems import (
    Zoo,
    batches,
    close,
    loss_fn,
    make,
    norm_net,
    perturbations,
    plain_net,
    seeded,
    train,
)
from torch import nn

from samtune.optimizers import VARIANTS, BayesianSAM, GradientOracle
from samtune.optimizers.two_pass import Sharpened

every_variant = pytest.mark.parametrize("name", VARIANTS)
every_pair = pytest.mark.parametrize(("name", "base"), problems.PAIRS)
perturbing_at_once = pytest.mark.parametrize("name", problems.PERTURBING_AT_ONCE)


@pytest.mark.parametrize("name", [n for n in VARIANTS if n not in problems.DATA_DEPENDENT])
def test_costs_what_theory_says(name):
    model = seeded(norm_net)
    optimizer = make(name, model)
    forward, backward = optimizer.passes
    assert optimizer.see_per_epoch == (forward + 2 * backward) / 3
    # The cycles of all variants in the exam divide 4.
    results = train(optimizer, model, batches(4))
    assert sum(r.forward_samples for r in results) == pytest.approx(4 * 16 * forward)
    assert sum(r.backward_samples for r in results) == pytest.approx(4 * 16 * backward)


@every_variant
def test_a_ragged_last_batch(name):
    sizes = [5, 1] if name in problems.PERTURBING else [5]
    model = seeded(plain_net)
    optimizer = make(name, model)
    for size in sizes:
        [(x, y)] = batches(1, size=size)
        results = [optimizer.step(GradientOracle(model, x, y, loss_fn)) for _ in range(4)]
        assert all(r.loss.isfinite() and len(r.outputs) == size for r in results)
        if name in problems.DATA_DEPENDENT:
            continue
        # A part of the batch is rounded up, in two passes at most.
        forward, backward = (p * size for p in optimizer.passes)
        assert forward <= sum(r.forward_samples for r in results) / 4 < forward + 2
        assert backward <= sum(r.backward_samples for r in results) / 4 < backward + 2


@pytest.mark.parametrize(
    ("name", "see"), [("sgd", 1.0), ("adamw", 1.0), ("sam", 2.0), ("asam", 2.0)]
)
def test_see_per_epoch(name, see):
    assert make(name, seeded(plain_net)).see_per_epoch == see


@every_variant
def test_the_result_is_the_clean_pass(name):
    model = seeded(norm_net)
    [(x, y)] = batches(1)
    expected = copy.deepcopy(model)(x)
    result = make(name, model).step(GradientOracle(model, x, y, loss_fn))
    assert torch.equal(result.outputs, expected.detach())
    assert torch.equal(result.loss, loss_fn(expected, y).mean().detach())
    assert result.loss.ndim == 0 and not result.loss.requires_grad
    assert not result.outputs.requires_grad and not result.skipped


@every_variant
def test_lr_zero_leaves_the_weights(name):
    model = seeded(Zoo)
    before = copy.deepcopy(dict(model.named_parameters()))
    train(make(name, model, lr=0), model, batches(3))
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


@every_variant
def test_storage_stays_and_no_gradient_is_left(name):
    model = seeded(Zoo)
    before = [p.data_ptr() for p in model.parameters()]
    train(make(name, model), model, batches(2))
    assert [p.data_ptr() for p in model.parameters()] == before
    assert all(p.grad is None for p in model.parameters())


ZERO = [(*pair, {}) for pair in problems.PAIRS]
ZERO += [(n, "sgd", {"alpha": "auto"}) for n in ("look_sam", "look_layer_sam")]
ZERO += [
    ("look_layer_sam", "sgd", {"layer_rule": "global"}),
    ("esam", "sgd", {"swp_mode": "tensor"}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "base", "knobs"), ZERO)
def test_gradients_may_be_zero(name, base, knobs, dtype):
    """Zero gradients occur in the first step (a refresh of LookSAM), later, and twice in a row."""
    model = seeded(plain_net).to(dtype)
    optimizer = make(name, model, base, **knobs)
    before = problems.weights(model)
    for scale, (x, y) in zip((0, 0, 1, 1, 0, 1, 1), batches(7), strict=True):
        oracle = GradientOracle(model, x.to(dtype), y, lambda o, t, s=scale: s * loss_fn(o, t))
        assert optimizer.step(oracle).loss.isfinite()
        assert problems.weights(model).isfinite().all()
    assert not torch.equal(problems.weights(model), before)


class Boom(Zoo):
    """Raises `error` in forward number `when`."""

    def __init__(self, error=RuntimeError, when=1):
        super().__init__()
        self.error, self.when, self.calls = error, when, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.when:
            super().forward(x)
            raise self.error
        return super().forward(x)


@every_variant
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_last_pass_leaves_the_weights(name, error):
    model = seeded(lambda: Boom(error, when=problems.passes_of_the_first_step(name)[0]))
    before = copy.deepcopy(dict(model.named_parameters()))
    pointers = [p.data_ptr() for p in model.parameters()]
    optimizer = make(name, model)
    with pytest.raises(error):
        train(optimizer, model, batches(1))
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert [p.data_ptr() for p in model.parameters()] == pointers
    train(optimizer, model, batches(1))


@pytest.mark.parametrize(
    ("name", "m"),
    [(n, m) for n, v in VARIANTS.items() for m in ((0, 8) if issubclass(v, Sharpened) else (0,))],
)
def test_an_exception_in_any_pass_leaves_no_trace(name, m):
    model = seeded(lambda: Boom(when=0))
    optimizer = make(name, model, **({"m": m} if m else {}))
    train(optimizer, model, batches(2))

    def found():
        return model.state_dict(), optimizer.memory, optimizer.base.state_dict()["state"]

    before = copy.deepcopy(found())
    for when in itertools.count(1):
        model.calls, model.when = 0, when
        try:
            train(optimizer, model, batches(1, seed=5))
        except RuntimeError:
            torch.testing.assert_close(found(), before, rtol=0, atol=0)
        else:
            break
    assert when > 1


@every_pair
def test_buffers_move_as_by_one_plain_step(name, base):
    data = batches(1)
    model, plain = seeded(norm_net), seeded(norm_net)
    train(make(name, model, base), model, data)
    plain(data[0][0])
    for (n, mine), theirs in zip(model.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, theirs), n
    assert model[1].num_batches_tracked == 1


@every_variant
def test_an_assigned_buffer_moves_once(name):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls = self.calls + 1
            return self.linear(x)

    model = seeded(Counting)
    train(make(name, model), model, batches(2))
    assert model.calls == 2


class Depth(nn.Module):
    """Uses parameter `a` or `b` by turns, as stochastic depth may from pass to pass."""

    def __init__(self):
        super().__init__()
        self.a_weight = nn.Parameter(torch.randn(6, 3))
        self.b_weight = nn.Parameter(torch.randn(6, 3))
        self.both = nn.Linear(6, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.both(x) + x @ (self.a_weight if self.calls % 2 else self.b_weight)


@perturbing_at_once
def test_a_parameter_with_a_gradient_in_one_pass_only(name):
    model = seeded(Depth)
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizer = make(name, model, **problems.UNSELECTIVE.get(name, {}))
    seen = perturbations(optimizer)
    train(optimizer, model, batches(1))
    assert seen[0][0] is not None and seen[0][1] is None
    assert torch.equal(model.a_weight, before["a_weight"])
    assert not torch.equal(model.b_weight, before["b_weight"])


@every_variant
def test_frozen_and_unused_parameters_stay(name):
    model = seeded(Zoo)
    before = copy.deepcopy(dict(model.named_parameters()))
    train(make(name, model), model, batches(3))
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if not n.startswith(("frozen", "unused"))}


@every_pair
def test_two_groups_are_one(name, base):
    ends = []
    for split in (None, 3):
        model = seeded(Zoo)
        p = list(model.parameters())
        groups = p if split is None else [{"params": p[:split]}, {"params": p[split:]}]
        optimizer = problems.over(groups, name, base)
        torch.manual_seed(7)
        train(optimizer, model, batches(4))
        ends.append(problems.weights(model))
    assert torch.equal(*ends)


@every_pair
def test_the_order_of_parameters_is_rounding(name, base):
    ends = []
    for step in (1, -1):
        model = seeded(Zoo)
        p = list(model.parameters())[::step]
        knobs = problems.UNSELECTIVE.get(name, {}) | ({} if base else {"n_data": 10**40})
        optimizer = problems.over(p, name, base, **knobs)
        torch.manual_seed(7)
        train(optimizer, model, batches(4))
        ends.append(problems.weights(model))
    close(ends[1], ends[0])


@every_variant
def test_the_layout_of_the_weights_is_rounding(name):
    def images_net():
        first = nn.Conv2d(2, 4, (2, 1))
        return nn.Sequential(
            nn.Unflatten(1, (2, 3, 1)), first, nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)
        )

    ends = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = seeded(images_net).to(memory_format=layout)
        knobs = problems.UNSELECTIVE.get(name, {}) | (
            {} if VARIANTS[name].bases else {"n_data": 10**40}
        )
        train(make(name, model, **knobs), model, batches(4))
        ends.append(problems.weights(model))
    close(ends[1], ends[0], rtol=1e-9)


@every_variant
def test_a_transposed_weight_is_rounding(name):
    """Such a weight is neither contiguous nor channels_last, so kernels use another order."""
    ends = []
    for transposed in (False, True):
        model = seeded(plain_net)
        if transposed:
            model[0].weight = nn.Parameter(model[0].weight.detach().t().contiguous().t())
            assert not model[0].weight.is_contiguous()
        noiseless = {} if VARIANTS[name].bases else {"n_data": 10**40}
        knobs = problems.UNSELECTIVE.get(name, {}) | noiseless
        train(make(name, model, **knobs), model, batches(4))
        ends.append(problems.weights(model))
    close(ends[1], ends[0], rtol=1e-9)


@every_variant
def test_parameters_of_mixed_dtypes(name):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.double_ = nn.Linear(6, 8).double()
            self.float_ = nn.Linear(8, 8)
            self.half_ = nn.Linear(8, 3).bfloat16()

        def forward(self, x):
            return self.half_(self.float_(self.double_(x).float()).bfloat16()).float()

    torch.manual_seed(0)
    model = Mixed()
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizer = make(name, model)
    seen = perturbations(optimizer)
    train(optimizer, model, batches(2))
    assert all(p.dtype == before[n].dtype for n, p in model.named_parameters())
    assert not any(torch.equal(p, before[n]) for n, p in model.named_parameters())
    if name == "sam":
        norm = sum((e.double() ** 2).sum() for e in seen[0]).sqrt()
        assert norm.item() == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize("name", [n for n, v in VARIANTS.items() if v.bases])
def test_clip_bounds_the_descent(name):
    base = VARIANTS[name].base_type
    base = torch.optim.SGD if base is torch.optim.Optimizer else base
    model = seeded(plain_net)
    optimizer = VARIANTS[name](base(model.parameters(), lr=0.1, weight_decay=0), clip=1e-3)
    norms = []
    base_step = optimizer.base.step

    def step():
        norms.append(sum((p.grad**2).sum() for p in model.parameters()).sqrt())
        base_step()

    optimizer.base.step = step
    train(optimizer, model, batches(1))
    close(norms[0], 1e-3, rtol=1e-6)

    wide, free = seeded(plain_net), seeded(plain_net)
    train(make(name, wide, clip=1e6), wide, batches(3))
    train(make(name, free), free, batches(3))
    assert torch.equal(problems.weights(wide), problems.weights(free))


def test_clip_bounds_the_descent_of_bayesian_sam():
    """The norm of h is bounded; the prior's decay is added later."""
    model = seeded(plain_net)
    knobs = {"beta1": 0.0, "prior_precision": 0.0, "n_data": 1000}
    free = BayesianSAM(model.parameters(), **knobs)
    [(x, y)] = batches(1)
    with torch.no_grad():
        h = free.direction(GradientOracle(model, x, y, loss_fn))
    length = sum((d**2).sum() for d in h).sqrt()
    for clip, share in ((1e-3, 1e-3 / length), (1e6, 1.0)):
        model = seeded(plain_net)
        train(BayesianSAM(model.parameters(), clip=clip, **knobs), model, [(x, y)])
        for p, w, d in zip(model.parameters(), seeded(plain_net).parameters(), h, strict=True):
            torch.testing.assert_close(p.detach(), w - 0.5 * share * d, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", problems.SCHEDULED)
def test_rho_may_follow_a_schedule(name):
    model, fixed = seeded(plain_net), seeded(plain_net)
    optimizer, constant = make(name, model), make(name, fixed)
    for i, batch in enumerate(batches(3)):
        setattr(optimizer, optimizer.radius_knob, 0.1 * i)
        train(optimizer, model, [batch])
        train(constant, fixed, [batch])
    assert not torch.equal(problems.weights(model), problems.weights(fixed))
