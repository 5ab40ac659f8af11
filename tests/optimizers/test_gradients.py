"""Whatever a model does in its passes, the gradients are those of `loss.backward()`."""

from __future__ import annotations

import problems
import pytest
import torch
from problems import batches, loss_fn, make, seeded, train
from torch import nn
from torch.utils.checkpoint import checkpoint

from samtune.optimizers import VARIANTS, GradientOracle

every_variant = pytest.mark.parametrize("name", VARIANTS)
BY_TENSORS = ("esam", {"swp_mode": "tensor", "beta": 0.5})
"""ESAM's first pass then asks for the gradients of some parameters only."""
CASES = [*((name, {}) for name in VARIANTS), BY_TENSORS, ("fisher_sam", {"fisher": "sample"})]
every_case = pytest.mark.parametrize(("name", "knobs"), CASES)


class Blocks(nn.Module):
    """Three blocks, of which `through` runs the first two."""

    def __init__(self, through=lambda block, x: block(x)) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        self.second = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.last = nn.Linear(8, 3)
        self.through = through

    def forward(self, x):
        return self.last(self.through(self.second, self.through(self.first, x)))


def reentrant(block, x):
    return checkpoint(block, x, use_reentrant=True)


def not_reentrant(block, x):
    return checkpoint(block, x, use_reentrant=False)


class Recomputed(torch.autograd.Function):
    """Runs its block again in the backward pass, as reversible networks do."""

    @staticmethod
    def forward(ctx, block, x):
        ctx.block = block
        ctx.save_for_backward(x)
        return block(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            out = ctx.block(x)
        torch.autograd.backward(out, grad)
        return None, x.grad


@every_case
@pytest.mark.parametrize("micro_batch", [None, 5])
@pytest.mark.parametrize("through", [reentrant, not_reentrant, Recomputed.apply])
def test_a_checkpointed_model_trains_like_a_plain_one(name, knobs, through, micro_batch):
    ends = []
    for way in (Blocks, lambda: Blocks(through)):
        model = seeded(way)
        variant = make(name, model, **knobs)
        for x, y in batches(4):
            # Without a gradient of its input a reentrant block at the start would have none.
            x.requires_grad_()
            variant.step(GradientOracle(model, x, y, loss_fn, micro_batch=micro_batch))
            assert x.grad is None and x.requires_grad
        ends.append(problems.weights(model))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("index", [None, slice(3, 9), torch.tensor([0, 15, 4])])
@pytest.mark.parametrize("through", [reentrant, not_reentrant, Recomputed.apply])
@pytest.mark.parametrize("count", [6, 2, 1])
def test_a_gradient_is_that_of_a_plain_backward(through, index, count):
    """The gradient is of all parameters or of some, over the batch or a part of it."""
    model = seeded(lambda: Blocks(through))
    [(x, y)] = batches(1)
    x.requires_grad_()
    chosen = [*model.parameters()][-count:] if count > 1 else [model.first[0].weight]
    oracle = GradientOracle(model, x, y, loss_fn)
    oracle.grad(chosen)
    ours = oracle.grad(chosen, index)
    assert all(p.grad is None for p in model.parameters())
    part = slice(None) if index is None else index
    loss_fn(model(x[part]), y[part]).mean().backward()
    torch.testing.assert_close(ours, [p.grad for p in chosen])


def test_inputs_that_were_computed_with_a_gradient():
    """Sgd has the one pass that differentiates them; other variants would need more."""
    ours, theirs = (seeded(lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))) for _ in "ab")
    [(x, y)] = batches(1)
    make("sgd", ours).step(GradientOracle(ours[1], ours[0](x), y, loss_fn))
    make("sgd", theirs).step(GradientOracle(theirs, x, y, loss_fn))
    assert torch.equal(problems.weights(ours), problems.weights(theirs))
    for name, options in (("sam", {}), ("sgd", {"micro_batch": 4})):
        oracle = GradientOracle(ours[1], {"input": ours[0](x)}, y, loss_fn, **options)
        with pytest.raises(ValueError, match="only one backward pass can go through"):
            make(name, ours).step(oracle)


def test_a_gradient_of_the_callers_is_left_alone():
    """The caller has gradients of parameters that the optimizer lacks, and of the inputs."""
    for through in (reentrant, not_reentrant):
        model = seeded(lambda t=through: Blocks(t))
        [(x, y)] = batches(1)
        x.requires_grad_()
        x.grad = torch.ones_like(x)
        model.first[0].weight.grad = kept = torch.ones_like(model.first[0].weight)
        train(make_over(model.last), model, [(x, y)])
        assert model.first[0].weight.grad is kept and torch.equal(kept, torch.ones_like(kept))
        assert model.second[0].weight.grad is None
        assert torch.equal(x.grad, torch.ones_like(x))


def make_over(part: nn.Module):
    return problems.over(list(part.parameters()), "sam")


@every_case
def test_hooks_on_parameters_act_as_in_a_plain_backward(name, knobs):
    """A hook may change the gradient before it is in `.grad`, or in `.grad`."""

    def halve(p):
        p.grad.mul_(0.5)

    def hooked(model):
        model.last.weight.register_hook(lambda g: g * 2)
        model.first[0].weight.register_post_accumulate_grad_hook(halve)
        return model

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, w, factor):
            ctx.factor = factor
            return w.view_as(w)

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.factor, None

    class Written(Blocks):
        """The same gradients, written into the model."""

        def forward(self, x):
            (w, b), last = self.first[0].parameters(), self.last
            x = torch.tanh(nn.functional.linear(x, Scaled.apply(w, 0.5), b))
            return nn.functional.linear(self.second(x), Scaled.apply(last.weight, 2), last.bias)

    ends = []
    for build in (lambda: hooked(seeded(Blocks)), lambda: seeded(Written)):
        model = build()
        train(make(name, model, **knobs), model, batches(4))
        ends.append(problems.weights(model))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


def test_sgd_is_the_plain_loop_with_everything_at_once():
    ours, theirs = (seeded(lambda: Blocks(reentrant)) for _ in range(2))
    seen = []

    def cut(p):
        p.grad.clamp_(-0.1, 0.1)

    for model in (ours, theirs):
        model.second[0].bias.register_post_accumulate_grad_hook(cut)
        model.first[0].weight.register_hook(lambda g: seen.append(g.clone()))
    variant = make("sgd", ours)
    base = make("sgd", theirs).base
    for x, y in batches(4):
        x.requires_grad_()
        variant.step(GradientOracle(ours, x, y, loss_fn))
        base.zero_grad()
        loss_fn(theirs(x), y).mean().backward()
        base.step()
    assert torch.equal(problems.weights(ours), problems.weights(theirs))
    assert len(seen) == 8 and all(map(torch.equal, seen[::2], seen[1::2]))
