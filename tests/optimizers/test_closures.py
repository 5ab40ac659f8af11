"""Variants in users' training loops: `step(closure)`, schedulers, hooks, scalers and averages."""

from __future__ import annotations

import copy

import problems
import pytest
import torch
from problems import Zoo, batches, loss_fn, make, norm_net, plain_net, seeded, train
from torch import Tensor, nn

from samtune.optimizers import SAM, VARIANTS, ClosureError, GradientOracle, MomentumSAM, Variant
from samtune.optimizers.two_pass import Sharpened

every_variant = pytest.mark.parametrize("name", VARIANTS)

NEED_SAMPLES = {"esam": {}, "k_sam": {}, "bayesian_sam": {}}
"""Variants that do not work with a closure at their default knobs."""

ONE_GRADIENT = {
    **{name: {} for name in VARIANTS if name not in NEED_SAMPLES},
    "esam": {"gamma": 1.0},
    "k_sam": {"kept": 1.0},
}
"""Knobs at which a variant needs the gradients of the batch only."""


def closure_of(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    scaler: torch.amp.GradScaler | None = None,
):
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y).mean()
        (loss if scaler is None else scaler.scale(loss)).backward()
        return loss

    return closure


@pytest.mark.parametrize("name", ONE_GRADIENT)
@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_a_closure_gives_the_steps_of_an_oracle(name, base):
    """BatchNorm's statistics change once per step, and dropout is the same in every pass."""
    if base not in VARIANTS[name].bases:
        return
    ends, losses = [], []
    for by_closure in (False, True):
        model = seeded(Zoo)
        optimizer = make(name, model, base, **ONE_GRADIENT[name])
        torch.manual_seed(7)
        for i, (x, y) in enumerate(batches(7)):
            optimizer.set_progress(i / 7)
            if by_closure:
                losses.append(optimizer.step(closure_of(optimizer, model, x, y)))
            else:
                losses.append(optimizer.step(GradientOracle(model, x, y, loss_fn)).loss)
        ends.append(problems.weights(model))
        assert all(p.grad is None for p in model.parameters())
    assert torch.equal(*ends)
    assert torch.equal(torch.stack(losses[:7]), torch.stack(losses[7:]))


CANNOT = [
    *NEED_SAMPLES.items(),
    ("fisher_sam", {"fisher": "sample"}),
    ("sparse_sam", {"mask": "fisher"}),
    *((n, {"m": 4}) for n, v in VARIANTS.items() if issubclass(v, Sharpened)),
]


@pytest.mark.parametrize(("name", "knobs"), CANNOT)
def test_what_a_closure_cannot_give_is_refused(name, knobs):
    model = seeded(norm_net)
    optimizer = make(name, model, **knobs)
    before = copy.deepcopy((model.state_dict(), optimizer.memory))
    [(x, y)] = batches(1)
    with pytest.raises(
        ClosureError, match=rf"{type(optimizer).__name__} needs .*optimizer.step\(GradientOracle\("
    ):
        optimizer.step(closure_of(optimizer, model, x, y))
    torch.testing.assert_close((model.state_dict(), optimizer.memory), before, rtol=0, atol=0)


def test_a_closure_that_raises_leaves_no_trace():
    for when in (1, 2):
        model = seeded(norm_net)
        optimizer = make("sam", model)
        before = copy.deepcopy(model.state_dict())
        [(x, y)] = batches(1)
        calls = []

        def closure(model=model, x=x, y=y, when=when, calls=calls, optimizer=optimizer):
            calls.append(0)
            loss = closure_of(optimizer, model, x, y)()
            if len(calls) == when:
                raise KeyError("mine")
            return loss

        with pytest.raises(KeyError, match="mine"):
            optimizer.step(closure)
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("returned", [None, 0.5])
def test_a_closure_may_return_a_number_or_nothing(returned):
    model = seeded(plain_net)
    optimizer = make("sam", model)
    [(x, y)] = batches(1)

    def closure():
        closure_of(optimizer, model, x, y)()
        return returned

    assert optimizer.step(closure=closure) == returned


def test_a_closure_without_zero_grad_or_after_a_backward_is_the_same():
    ends = []
    for habit in range(3):
        model = seeded(plain_net)
        optimizer = make("gsam", model)
        for x, y in batches(3):
            usual = closure_of(optimizer, model, x, y)
            if habit == 1:
                usual()
            if habit == 2:

                def usual(model=model, x=x, y=y):
                    loss = loss_fn(model(x), y).mean()
                    loss.backward()
                    return loss

            optimizer.step(usual)
        ends.append(problems.weights(model))
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


def test_a_closure_of_several_modules_and_batches():
    """Gradients of several backward passes add up; each module's buffers move as in one pass."""
    body, head = seeded(norm_net), seeded(lambda: nn.Linear(3, 3), seed=1)
    once, twice = copy.deepcopy((body, head)), (body, head)
    for part in batches(2):
        once[0](part[0])
    optimizer = SAM(torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1))

    def closure():
        for x, y in batches(2):
            loss_fn(twice[1](twice[0](x)), y).mean().backward()

    optimizer.step(closure)
    assert body[1].num_batches_tracked == 2
    for mine, theirs in zip(body.buffers(), once[0].buffers(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.filterwarnings("ignore:Using `torch.compile", "ignore:`torch.jit")
@pytest.mark.parametrize("how", ["compiled", "compiled in place", "traced"])
def test_a_closure_of_a_compiled_model(how):
    ends = []
    for compiled in (False, True):
        model = net = seeded(norm_net)
        if compiled and how == "compiled":
            net = torch.compile(model, backend="eager", fullgraph=True)
        elif compiled and how == "compiled in place":
            model.compile(backend="eager")
        elif compiled:
            model = net = torch.jit.trace(model, batches(1)[0][0], check_trace=False)
            net.load_state_dict(seeded(norm_net).state_dict())
        optimizer = make("asam", model)
        for x, y in batches(3):
            optimizer.step(closure_of(optimizer, net, x, y))
        ends.append(problems.weights(model))
    assert torch.equal(*ends)


def test_masks_of_normalisation_layers_by_a_closure():
    ends = []
    for by_closure in (False, True):
        model = seeded(norm_net)
        optimizer = make("sam", model, params="norm", rho=0.5)
        for x, y in batches(3):
            oracle = GradientOracle(model, x, y, loss_fn)
            optimizer.step(closure_of(optimizer, model, x, y) if by_closure else oracle)
        ends.append(problems.weights(model))
    assert torch.equal(*ends)
    model = seeded(norm_net)
    optimizer = make("momentum_sam", model, params="norm")
    assert isinstance(optimizer, MomentumSAM)
    train(optimizer, model, batches(1))
    optimizer._of_norms.clear()
    with pytest.raises(ClosureError, match="MomentumSAM needs the model before its first pass"):
        optimizer.step(closure_of(optimizer, model, *batches(1)[0]))


def test_a_closure_without_backward_is_one_sentence():
    model = seeded(plain_net)
    optimizer = make("sam", model)
    with pytest.raises(ValueError, match=r"the closure left no gradient .*must call backward\(\)"):
        optimizer.step(lambda: loss_fn(model(batches(1)[0][0]), batches(1)[0][1]).mean())


@every_variant
def test_other_ways_to_step_show_the_right_one(name):
    optimizer = make(name, seeded(plain_net))
    for call in (optimizer.step, optimizer.first_step, lambda: optimizer.second_step(True)):
        with pytest.raises(TypeError, match=r"optimizer\.step\(closure\) with a closure that"):
            call()
    with pytest.raises(TypeError, match="an oracle or a closure, not 3"):
        optimizer.step(3)


# As an optimizer of torch.


@every_variant
def test_a_variant_is_an_optimizer_of_torch(name):
    model = seeded(plain_net)
    optimizer = make(name, model)
    assert isinstance(optimizer, torch.optim.Optimizer) and isinstance(optimizer, Variant)
    assert optimizer.param_groups is optimizer.base.param_groups
    assert optimizer.state is optimizer.base.state
    assert optimizer.defaults is optimizer.base.defaults
    train(optimizer, model, batches(2))
    saved = optimizer.state_dict()
    assert saved.keys() >= {"state", "param_groups", "variant", "memory"}
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups is optimizer.base.param_groups
    assert optimizer.state is optimizer.base.state
    model[0].weight.grad = torch.ones_like(model[0].weight)
    optimizer.zero_grad()
    assert model[0].weight.grad is None


@every_variant
def test_hooks_run_once_per_step(name):
    model = seeded(plain_net)
    optimizer = make(name, model)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.register_state_dict_post_hook(lambda _, state: state | {"more": 1})
    train(optimizer, model, batches(2))
    assert seen == ["before", "after"] * 2
    assert optimizer.state_dict()["more"] == 1


@every_variant
@pytest.mark.filterwarnings("error")
def test_schedulers_drive_a_variant_as_its_base(name):
    ends = []
    for drive in (lambda o: o, lambda o: o.base):
        model = seeded(plain_net)
        optimizer = make(name, model)
        scheduler = torch.optim.lr_scheduler.SequentialLR(
            drive(optimizer),
            [
                torch.optim.lr_scheduler.LinearLR(drive(optimizer), 0.1, total_iters=2),
                torch.optim.lr_scheduler.CosineAnnealingLR(drive(optimizer), 4),
            ],
            [2],
        )
        lrs = []
        for i, batch in enumerate(batches(5)):
            train(optimizer, model, [batch], i, of=5)
            scheduler.step()
            lrs.append(optimizer.param_groups[0]["lr"])
        ends.append((problems.weights(model), lrs))
    assert torch.equal(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]
    assert len(set(lrs)) > 2


def test_averages_of_weights():
    model = seeded(norm_net)
    optimizer = make("sam", model)
    average = torch.optim.swa_utils.AveragedModel(model)
    scheduler = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.01, anneal_epochs=1)
    for x, y in batches(3):
        optimizer.step(closure_of(optimizer, model, x, y))
        average.update_parameters(model)
        scheduler.step()
    assert average.n_averaged == 3 and optimizer.param_groups[0]["lr"] == 0.01
    torch.optim.swa_utils.update_bn([x for x, _ in batches(2)], average)


@pytest.mark.parametrize("name", ["sam", "fisher_sam", "gsam", "wsam", "look_sam"])
def test_a_scaler_takes_a_variant(name):
    """This includes variants with equations that depend on the scale of the loss."""
    ends = []
    for scaled in (False, True):
        model = seeded(plain_net)
        optimizer = make(name, model)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10) if scaled else None
        for x, y in batches(4):
            closure = closure_of(optimizer, model, x, y, scaler)
            if scaler is None:
                optimizer.step(closure)
            else:
                closure()
                scaler.step(optimizer, closure)
                scaler.update()
        ends.append(problems.weights(model))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("when", [1, 2, 3])
def test_a_scaler_skips_an_overflow_in_any_pass(when):
    """The overflow is in the backward pass before the step, in the first pass or in the second."""
    model = seeded(norm_net)
    optimizer = make("friendly_sam", model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    [(x, y)] = batches(1)
    poison, calls = problems.poisoned(when), []

    def closure():
        optimizer.zero_grad()
        loss = poison(model(x), y).mean()
        scaler.scale(loss).backward()
        calls.append(loss)
        return loss

    closure()
    before = copy.deepcopy((dict(model.named_parameters()), optimizer.memory))
    scaler.step(optimizer, closure)
    scaler.update()
    now = dict(model.named_parameters()), optimizer.memory
    torch.testing.assert_close(now, before, rtol=0, atol=0)
    assert len(calls) == when
    assert scaler.get_scale() == 2.0 ** (9 if when == 1 else 10)


def test_a_variant_is_no_base_of_another():
    base = make("sam", seeded(plain_net))
    with pytest.raises(TypeError, match="the base of SAM is a SAM, which has a base of its own"):
        SAM(base)
