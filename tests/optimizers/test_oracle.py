"""The oracle's services for every variant: micro-batches, parts, dropout, and its refusals."""

from __future__ import annotations

import problems
import pytest
import torch
from problems import batches, loss_fn, make, plain_net, seeded, train
from torch import nn

from samtune.optimizers import VARIANTS, GradientOracle

every_variant = pytest.mark.parametrize("name", VARIANTS)


def dropout_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3))


# Micro-batches.


@every_variant
@pytest.mark.parametrize("micro_batch", [1, 4, 5, 16, 99])
def test_micro_batches_are_the_batch(name, micro_batch):
    whole, parts = seeded(plain_net), seeded(plain_net)
    data = batches(3) + batches(1, size=7)
    expected = train(make(name, whole), whole, data)
    results = train(make(name, parts), parts, data, micro_batch=micro_batch)
    # AdamW divides by the square root of tiny squares, and magnifies rounding.
    rtol = 1e-12 if make(name, whole).base_type is torch.optim.AdamW else 1e-13
    torch.testing.assert_close(
        problems.weights(parts), problems.weights(whole), rtol=rtol, atol=1e-14
    )
    for mine, theirs in zip(results, expected, strict=True):
        torch.testing.assert_close(mine.outputs, theirs.outputs, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(mine.loss, theirs.loss, rtol=1e-12, atol=0)
        assert mine.forward_samples == theirs.forward_samples
        assert mine.backward_samples == theirs.backward_samples


def test_a_part_of_the_batch():
    model = seeded(plain_net)
    p = list(model.parameters())
    [(x, y)] = batches(1)
    index = torch.tensor([3, 0, 11])
    for chosen in (index, slice(2, 9)):
        for micro_batch in (None, 2):
            oracle = GradientOracle(model, x, y, loss_fn, micro_batch=micro_batch)
            oracle.grad(p)
            part = oracle.grad(p, chosen)
            expected = GradientOracle(model, x[chosen], y[chosen], loss_fn).grad(p)
            torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-15)
            torch.testing.assert_close(
                oracle.losses(chosen), loss_fn(model(x[chosen]), y[chosen]).detach()
            )
            count = len(y[chosen])
            assert (oracle.forward_samples, oracle.backward_samples) == (
                16 + 2 * count,
                16 + count,
            )
            assert torch.equal(oracle.outputs, model(x).detach()) or micro_batch


def test_gradients_are_tensors_of_their_own():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.zeros(3))
            self.b = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return (self.a + self.b).sum().expand(len(x))

    model = Sum()
    x = torch.zeros(4, 1)
    a, b = GradientOracle(model, x, x, problems.value).grad([model.a, model.b])
    assert a.data_ptr() != b.data_ptr()
    a.add_(1)
    assert torch.equal(b, torch.ones(3))


# Dropout.


@every_variant
@pytest.mark.parametrize("micro_batch", [None, 5])
def test_the_generator_goes_on_from_the_clean_pass(name, micro_batch):
    model = seeded(dropout_net)
    [(x, y)] = batches(1)
    torch.manual_seed(7)
    for part in x.split(micro_batch or 16):
        model(part)
    expected = torch.get_rng_state()
    torch.manual_seed(7)
    train(make(name, model), model, [(x, y)], micro_batch=micro_batch)
    assert torch.equal(torch.get_rng_state(), expected)


@pytest.mark.parametrize("micro_batch", [None, 5])
def test_every_pass_draws_the_same_masks(micro_batch):
    model = seeded(dropout_net)
    p = list(model.parameters())
    [(x, y)] = batches(1)
    replayed = GradientOracle(model, x, y, loss_fn, micro_batch=micro_batch)
    first = replayed.grad(p)
    torch.rand(5)
    torch.testing.assert_close(replayed.grad(p), first, rtol=0, atol=0)
    fresh = GradientOracle(model, x, y, loss_fn, replay_rng=False)
    assert not torch.equal(fresh.grad(p)[0], fresh.grad(p)[0])


def test_a_pass_over_a_part_leaves_the_generator():
    model = seeded(dropout_net)
    [(x, y)] = batches(1)
    oracle = GradientOracle(model, x, y, loss_fn)
    oracle.grad(list(model.parameters()))
    before = torch.get_rng_state()
    oracle.grad(list(model.parameters()), slice(4))
    oracle.losses(slice(4))
    assert torch.equal(torch.get_rng_state(), before)


# Errors.


@pytest.mark.parametrize(
    ("reduce", "message"),
    [
        (torch.mean, r'shape \(16,\): give it reduction="none"'),
        (lambda each: torch.cat([each, each]), r"returned shape \(32,\) for 16 samples"),
        (list, r"returned a list; it must return one loss per sample, shape \(16,\)"),
        (lambda each: (each, None), "returned a tuple"),
        (torch.detach, "the loss does not depend on any parameter"),
    ],
)
def test_a_loss_that_is_not_per_sample(reduce, message):
    model = seeded(plain_net)
    [(x, y)] = batches(1)
    oracle = GradientOracle(model, x, y, lambda out, t: reduce(loss_fn(out, t)))
    with pytest.raises((TypeError, ValueError), match=message):
        make("sam", model).step(oracle)


@every_variant
@pytest.mark.parametrize("shape", [(16, 1), (16, 3), (16, 2, 3), (16, 2, 1, 4)])
@pytest.mark.parametrize("micro_batch", [None, 5])
def test_losses_of_elements_are_averaged_over_a_sample(name, shape, micro_batch):
    share = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).view(shape) / 16
    ends = []
    for of_elements in (True, False):

        def loss(out, t, of_elements=of_elements):
            x, share_of = t
            each = loss_fn(out, x).view(-1, *[1] * (len(shape) - 1)) * share_of
            return each if of_elements else each.flatten(1).mean(1)

        model = seeded(plain_net)
        variant = make(name, model)
        for x, y in batches(3):
            oracle = GradientOracle(model, x, (y, share), loss, micro_batch=micro_batch)
            result = variant.step(oracle)
            assert oracle.sample_losses.dim() == 1 and result.loss.dim() == 0
        ends.append(problems.weights(model))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


def test_a_model_that_is_no_module():
    [(x, y)] = batches(1)
    for model, what in (
        (lambda x: x, "a function, and must be an instance"),
        (nn.Linear, "class Linear"),
    ):
        with pytest.raises(TypeError, match=what):
            GradientOracle(model, x, y, loss_fn)


def test_nothing_to_train():
    model = seeded(plain_net).requires_grad_(False)
    [(x, y)] = batches(1)
    with pytest.raises(ValueError, match="no parameter of the optimizer requires a gradient"):
        GradientOracle(model, x, y, loss_fn).grad(list(model.parameters()))


@every_variant
def test_sparse_gradients_are_made_dense(name):
    ends = []
    for sparse in (True, False):
        model = seeded(
            lambda s=sparse: nn.Sequential(
                nn.EmbeddingBag(20, 6, sparse=s, mode="sum"), nn.Linear(6, 3)
            )
        )
        variant = make(name, model)
        words = torch.Generator().manual_seed(1)
        for _ in range(3):
            x = torch.randint(20, (16, 4), generator=words)
            variant.step(GradientOracle(model, x, x[:, 0] % 3, loss_fn))
        ends.append(problems.weights(model))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


def test_impossible_batches():
    model = seeded(plain_net)
    [(x, y)] = batches(1)
    with pytest.raises(ValueError, match="16 inputs and 15 targets"):
        GradientOracle(model, x, y[1:], loss_fn)
    with pytest.raises(ValueError, match="0 inputs and 0 targets"):
        GradientOracle(model, x[:0], y[:0], loss_fn)
    with pytest.raises(ValueError, match="micro_batch is 0; it counts samples"):
        GradientOracle(model, x, y, loss_fn, micro_batch=0)
    with pytest.raises(ValueError, match="takes the whole batch"):
        GradientOracle(model, x, y, loss_fn).grad(list(model.parameters()), slice(4))


def test_an_oracle_serves_one_step():
    model = seeded(plain_net)
    [(x, y)] = batches(1)
    oracle = GradientOracle(model, x, y, loss_fn)
    variant = make("sam", model)
    variant.step(oracle)
    with pytest.raises(ValueError, match="one step; make a new GradientOracle"):
        variant.step(oracle)
