"""Steps with a loss or a gradient that is not finite are skipped, and leave no trace."""

from __future__ import annotations

import contextlib
import itertools

import problems
import pytest
import torch
from problems import batches, loss_fn, make, norm_net, plain_net, seeded, snapshot, train

from samtune.optimizers import VARIANTS, GradientOracle

every_variant = pytest.mark.parametrize("name", VARIANTS)
PASSES = {name: problems.passes_of_the_first_step(name) for name in VARIANTS}
every_pass = pytest.mark.parametrize(
    ("name", "when"), [(n, i + 1) for n, (forward, _) in PASSES.items() for i in range(forward)]
)
every_backward = pytest.mark.parametrize(
    ("name", "when"), [(n, i + 1) for n, (_, backward) in PASSES.items() for i in range(backward)]
)


@every_pass
@pytest.mark.parametrize("net", [norm_net, plain_net])
def test_a_non_finite_pass_is_skipped_without_a_trace(name, when, net):
    model, never = seeded(net), seeded(net)
    variant, other = make(name, model), make(name, never)
    data = batches(4)
    train(variant, model, data[:2])
    train(other, never, data[:2])

    before = snapshot(model, variant)
    [(x, y)] = batches(1, seed=9)
    poison = problems.poisoned(when)
    result = variant.step(GradientOracle(model, x, y, poison, check_finite=True))
    assert result.skipped and len(poison.sizes) == when
    assert result.forward_samples == sum(poison.sizes)
    torch.testing.assert_close(snapshot(model, variant), before, rtol=0, atol=0)

    train(variant, model, data[2:], check_finite=True)
    train(other, never, data[2:])
    assert torch.equal(problems.weights(model), problems.weights(never))


@every_backward
def test_a_non_finite_gradient_of_a_finite_loss_is_skipped(name, when):
    model = seeded(plain_net)
    variant = make(name, model)
    calls = 0

    def spoil(g):
        nonlocal calls
        calls += 1
        return g * float("nan") if calls == when else g

    model[0].weight.register_hook(spoil)
    before = snapshot(model, variant)
    [(x, y)] = batches(1)
    result = variant.step(GradientOracle(model, x, y, loss_fn, check_finite=True))
    assert result.skipped and result.loss.isfinite()
    torch.testing.assert_close(snapshot(model, variant), before, rtol=0, atol=0)


@every_backward
def test_fp16_scaling_skips_an_overflow(name, when):
    model, plain = seeded(norm_net), seeded(norm_net)
    variant, other = make(name, model), make(name, plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=1000)
    data = batches(4)
    assert not any(r.skipped for r in train(variant, model, data, scaler=scaler))
    train(other, plain, data)
    # A power of two scales floats exactly.
    assert torch.equal(problems.weights(model), problems.weights(plain))
    assert scaler.get_scale() == 2.0**12

    calls = 0

    def overflow(g):
        nonlocal calls
        calls += 1
        return g * float("inf") if calls == when else g

    hook = model[0].weight.register_hook(overflow)
    before = snapshot(model, variant)
    assert train(variant, model, batches(1, seed=9), scaler=scaler)[0].skipped
    torch.testing.assert_close(snapshot(model, variant), before, rtol=0, atol=0)
    assert scaler.get_scale() == 2.0**11
    hook.remove()

    train(variant, model, data, scaler=scaler)
    train(other, plain, data)
    assert torch.equal(problems.weights(model), problems.weights(plain))


def test_a_failed_step_leaves_the_scaler_usable():
    class BrokenError(Exception):
        pass

    model = seeded(plain_net)
    variant = make("sam", model)
    scaler = torch.amp.GradScaler("cpu")
    [(x, y)] = batches(1)

    def broken_in_pass_two():
        calls = itertools.count(1)

        def loss(outputs, targets):
            if next(calls) == 2:
                raise BrokenError
            return loss_fn(outputs, targets)

        return loss

    # The scaler knows optimizers by id, and the id of a dead one comes back sooner or later.
    for _ in range(5):
        with contextlib.suppress(BrokenError):
            variant.step(GradientOracle(model, x, y, broken_in_pass_two(), scaler=scaler))
    assert not train(variant, model, batches(2), scaler=scaler)[0].skipped
