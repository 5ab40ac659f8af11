"""The exam that every registered variant takes, and the values of each from its paper.

References: the equations in each variant's file; `reference.py` beside this one.
"""

from __future__ import annotations

import copy
import io
import itertools
from dataclasses import dataclass

import problems
import pytest
import reference
import reference_more
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
from torch.utils._python_dispatch import TorchDispatchMode

from samtune.optimizers import (
    BASES,
    VARIANTS,
    BayesianSAM,
    GradientOracle,
    Variant,
    knob,
    tensors,
)
from samtune.optimizers.two_pass import Sharpened

every_variant = pytest.mark.parametrize("name", VARIANTS)
every_pair = pytest.mark.parametrize(("name", "base"), problems.PAIRS)
perturbing = pytest.mark.parametrize("name", problems.PERTURBING)
perturbing_at_once = pytest.mark.parametrize("name", problems.PERTURBING_AT_ONCE)


# Agreement with torch and with the textbook.


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


@perturbing
@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize("net", [norm_net, Zoo])
def test_rho_zero_is_the_base_bitwise(name, base, net):
    if base not in VARIANTS[name].bases:
        pytest.skip(f"{name} has no {base} base")
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
    knobs, direction = TEXTBOOK[case]
    data = batches(100) + batches(1, size=5)
    fast, plain = seeded(Zoo), seeded(Zoo)
    start = problems.weights(fast)

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
        settings = {"lr": 1e-3, "beta1": 0.8, "eps": 1e-6}
        textbook = reference.AdamW(**settings, weight_decay=decayed)
    optimizer = VARIANTS[case.split()[0]](BASES[base].build(groups, **settings), **knobs)

    torch.manual_seed(7)
    train(optimizer, fast, data)
    torch.manual_seed(7)
    reference.train(plain, data, loss_fn, textbook, direction())

    expected = problems.weights(plain)
    assert (expected - start).norm() > 0.1 * start.norm()
    assert (problems.weights(fast) - expected).norm() <= 1e-12 * expected.norm()


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
    expected = problems.weights(plain)
    assert (problems.weights(fast) - expected).norm() <= 1e-12 * expected.norm()


def test_every_variant_has_a_textbook():
    assert {case.split()[0] for case in TEXTBOOK} | {"bayesian_sam"} == set(VARIANTS)


# The exam.


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
    """In the first step, which for LookSAM is a refresh, in a later one, and in two of a row."""
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
        return model.state_dict(), optimizer.state, optimizer.base.state_dict()["state"]

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


@every_pair
@pytest.mark.parametrize("cut", [1, 2, 5])
def test_resume_is_bitwise(name, base, cut):
    data = batches(6)
    whole = seeded(Zoo)
    torch.manual_seed(7)
    train(make(name, whole, base), whole, data)

    first = seeded(Zoo)
    optimizer = make(name, first, base)
    torch.manual_seed(7)
    train(optimizer, first, data[:cut], of=6)
    file = io.BytesIO()
    torch.save(
        {"model": first.state_dict(), "optimizer": optimizer.state_dict()}
        | {"random": torch.get_rng_state()},
        file,
    )
    torch.manual_seed(99)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = seeded(Zoo, seed=5)
    second.load_state_dict(saved["model"])
    optimizer = make(name, second, base)
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["random"])
    train(optimizer, second, data[cut:], cut, of=6)
    assert torch.equal(problems.weights(second), problems.weights(whole))


@every_variant
def test_loading_changes_the_groups_in_place(name):
    model = seeded(plain_net)
    optimizer = make(name, model)
    groups, group = optimizer.base.param_groups, optimizer.base.param_groups[0]
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer.base, 0.5)
    train(optimizer, model, batches(1))
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    scheduler.step()
    optimizer.load_state_dict(saved)
    assert optimizer.base.param_groups is groups and groups[0] is group
    assert group["lr"] == saved["base"]["param_groups"][0]["lr"]
    assert group["params"][0] is model[0].weight
    train(optimizer, model, batches(2))
    for key in ("base", "state"):
        torch.testing.assert_close(saved[key], kept[key], rtol=0, atol=0)


def test_loading_another_variants_state():
    model = seeded(plain_net)
    saved = make("sam", model).state_dict()
    with pytest.raises(ValueError, match=r"saved by 'sam', and this is 'asam'"):
        make("asam", model).load_state_dict(saved)
    with pytest.raises(ValueError, match="saved by 'something else'"):
        make("asam", model).load_state_dict(saved["base"])


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
    """By the norm of h, which the prior's decay is added to later."""
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


# Launches.


class Prescribed(GradientOracle):
    """Hands out given gradients, so that what is counted is the variant's own."""

    def grad(self, parameters, index=None):
        self.losses(index)
        return [torch.ones_like(p) for p in parameters]

    def losses(self, index=None):
        self.forward_samples += len(self)
        self.loss = self.outputs = self.inputs
        self.sample_losses = self.inputs[:, 0]
        return self.sample_losses


class Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.ops = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops.append(str(func))
        return func(*args, **(kwargs or {}))


def launches(name: str, layers: int) -> list[str]:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)))
    optimizer = make(name, model)
    x = torch.zeros(2, 2)

    def step():
        optimizer.step(Prescribed(model, x, x, loss_fn))

    steps = []
    for _ in range(4):
        with Counter() as counter:
            step()
        steps.append([op for op in counter.ops if not op.startswith(FREE)])
    # The first step makes the base's state; of a cycle, the dearest counts.
    return max(steps[1:], key=len)


FREE = (
    "aten.detach",
    "aten.ones_like",
    "aten.zeros.default",
    "aten.empty",
    "aten.expand",
    "aten.as_strided",
    "aten.promote",
    "aten.slice",
    "aten.select",
    "aten.split",
    "aten.unbind",
    "aten.view",
    "aten._unsafe_view",
    "aten._reshape_alias",
    "profiler",
)
"""Makes no launch, or is the prescribed gradient's."""

MOST = {"sgd": 1, "adamw": 2, "sam": 9, "asam": 13, "lookbehind_sam": 21, "gam": 43}
# Per refresh, which is one step of k; and of eight, or here two, chunks.
MOST |= {"look_layer_sam": 23, "bayesian_sam": 27}


@every_variant
def test_launches_do_not_grow_with_the_net(name, monkeypatch):
    # As on a GPU: the CPU has a kernel for the ascent that is better and goes tensor by tensor.
    monkeypatch.setattr(tensors, "_FUSED_ON_CPU", ())
    few, many = launches(name, 3), launches(name, 40)
    assert few == many
    assert len(many) <= MOST.get(name, 20), many


@perturbing_at_once
def test_buffers_cost_a_few_launches(name):
    counts = []
    for layers in (2, 12):
        model = seeded(lambda n=layers: nn.Sequential(*(nn.BatchNorm1d(6) for _ in range(n))))
        optimizer = make(name, model)
        with Counter() as counter:
            train(optimizer, model, batches(1))
        counts.append(sum("foreach_copy" in op for op in counter.ops))
    # Two dtypes (statistics, counters), kept twice and put back after each later pass.
    later = problems.passes_of_the_first_step(name)[0] - 1
    assert counts == [4 + 2 * later] * 2


# The seam: what later variants need of it.


@dataclass(eq=False, kw_only=True)
class Seam(Variant):
    """A running mean changed in place, reuse steps, and descent on half of the samples."""

    name = "seam"
    passes = (2.5, 1.5)
    period: int = knob(2, low=1, doc="steps per refresh", source="-")

    def direction(self, oracle):
        t = self.state.get("t", 0)
        self.state["t"] = t + 1
        g = oracle.grad(self.parameters)
        if t % self.period == 0:
            clean = oracle.sample_losses
            with self.perturbed(g, 0.1):
                sharp = oracle.losses() - clean
                g = oracle.grad(self.parameters, sharp.topk(len(oracle) // 2).indices)
        if "mean" not in self.state:
            self.state["mean"] = [None if d is None else torch.zeros_like(d) for d in g]
        pairs = [(m, d) for m, d in zip(self.state["mean"], g, strict=True) if d is not None]
        torch._foreach_lerp_([m for m, _ in pairs], [d for _, d in pairs], 0.1)
        return [None if m is None else m.clone() for m in self.state["mean"]]


def test_a_variant_with_state_and_changing_cost():
    model = seeded(norm_net)
    optimizer = Seam(BASES["sgd"].build(model.parameters()))
    results = train(optimizer, model, batches(3))
    assert [(r.forward_samples, r.backward_samples) for r in results] == [
        (40, 24),
        (16, 16),
        (40, 24),
    ]
    assert all(r.outputs.shape == (16, 3) for r in results)
    assert model[1].num_batches_tracked == 3


def test_a_skipped_step_leaves_a_variants_state():
    ends = []
    for when in (None, 1, 2, 3):
        model = seeded(norm_net)
        optimizer = Seam(BASES["sgd"].build(model.parameters()))
        train(optimizer, model, batches(2))
        if when:
            poison = problems.poisoned(when)
            [(x, y)] = batches(1, seed=9)
            oracle = GradientOracle(model, x, y, poison, check_finite=True)
            assert optimizer.step(oracle).skipped
        train(optimizer, model, batches(2, seed=3))
        ends.append(problems.weights(model))
    assert all(torch.equal(end, ends[0]) for end in ends)


def test_a_variants_state_resumes():
    ends = []
    for cut in (0, 1, 2, 3):
        model = seeded(norm_net)
        optimizer = Seam(BASES["sgd"].build(model.parameters()))
        train(optimizer, model, batches(4)[:cut])
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer = Seam(BASES["sgd"].build(model.parameters()))
        optimizer.load_state_dict(saved)
        train(optimizer, model, batches(4)[cut:])
        ends.append(problems.weights(model))
    assert all(torch.equal(end, ends[0]) for end in ends)
