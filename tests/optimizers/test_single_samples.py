"""Forms that take gradients of single samples: Fisher SAM's Fisher, and Sparse SAM's mask."""

from __future__ import annotations

import pytest
import torch
from problems import (
    batches,
    close,
    loss_fn,
    make,
    norm_net,
    perturbations,
    plain_net,
    seeded,
    train,
    weights,
)
from torch import Tensor, nn

from samtune.optimizers import VARIANTS, GradientOracle


def flat(tensors: list[Tensor | None]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors if t is not None])


def fisher(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean square of the samples' gradients, taken one at a time."""
    total = 0
    for i in range(len(x)):
        loss = loss_fn(model(x[i : i + 1]), y[i : i + 1]).sum()
        total = total + flat(list(torch.autograd.grad(loss, list(model.parameters())))) ** 2
    return total / len(x)


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    found = torch.autograd.grad(loss_fn(model(x), y).mean(), list(model.parameters()))
    return flat(list(found))


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_fisher_sam_is_its_textbook(micro_batch):
    """From the paper's equations with the definition of F; 30 steps of plain SGD."""
    rho, eta, lr = 0.2, 40.0, 0.1
    ours, theirs = seeded(plain_net), seeded(plain_net)
    base = torch.optim.SGD(ours.parameters(), lr=lr)
    optimizer = VARIANTS["fisher_sam"](base, rho=rho, eta=eta, fisher="sample")
    for x, y in [*batches(29), *batches(1, size=5)]:
        optimizer.step(GradientOracle(ours, x, y, loss_fn, micro_batch=micro_batch))
        w = nn.utils.parameters_to_vector(theirs.parameters()).detach()
        F, g = 1 + eta * fisher(theirs, x, y), gradient(theirs, x, y)
        eps = rho * g / F / (g * g / F).sum().sqrt()
        nn.utils.vector_to_parameters(w + eps, theirs.parameters())
        h = gradient(theirs, x, y)
        nn.utils.vector_to_parameters(w - lr * h, theirs.parameters())
    close(weights(ours), weights(theirs), rtol=1e-9)


def test_it_costs_a_pass_a_sample():
    model = seeded(plain_net)
    optimizer = make("fisher_sam", model, fisher="sample")
    for size in (16, 5):
        [result] = train(optimizer, model, batches(1, size=size))
        assert (result.forward_samples, result.backward_samples) == (3 * size, 3 * size)
    assert optimizer.passes == (3, 3)


def test_without_eta_no_sample_is_asked():
    ends = []
    for knobs in ({"eta": 0, "fisher": "sample"}, {"eta": 0}):
        model = seeded(norm_net)
        train(make("fisher_sam", model, **knobs), model, batches(3))
        ends.append(weights(model))
    assert torch.equal(*ends)


def test_the_fisher_mask_is_of_the_weights_with_most_information():
    model = seeded(plain_net)
    data = batches(3)
    optimizer = make(
        "sparse_sam", model, mask="fisher", samples=6, sparsity=0.75, update_freq=2, rho=0.3
    )
    eps, masks, expected = perturbations(optimizer), [], []
    for x, y in data:
        information = fisher(model, x[:6], y[:6])
        live = information.numel() - -(-information.numel() * 3 // 4)
        chosen = information.topk(live).indices
        expected.append(torch.zeros_like(information).index_fill_(0, chosen, 1))
        train(optimizer, model, [(x, y)])
        masks.append(flat(optimizer.memory["mask"]))
    # Taken in the first step, kept for the second, taken anew in the third.
    assert torch.equal(masks[0], expected[0]) and torch.equal(masks[1], masks[0])
    assert torch.equal(masks[2], expected[2]) and not torch.equal(masks[2], masks[0])
    assert torch.equal((flat(eps[2]) != 0).double(), masks[2])


def test_a_mask_taken_once_stays_and_resumes():
    knobs = {"mask": "fisher", "update_freq": 10**6}
    whole, second = seeded(plain_net), seeded(plain_net)
    train(make("sparse_sam", whole, **knobs), whole, batches(4))
    first = make("sparse_sam", second, **knobs)
    train(first, second, batches(4)[:2])
    mask = flat(first.memory["mask"])
    resumed = make("sparse_sam", second, **knobs)
    resumed.load_state_dict(first.state_dict())
    train(resumed, second, batches(4)[2:])
    assert torch.equal(weights(second), weights(whole))
    assert torch.equal(flat(resumed.memory["mask"]), mask)


@pytest.mark.parametrize("name", ["fisher_sam", "sparse_sam"])
def test_an_infinite_sample_skips_the_step(name):
    model = seeded(plain_net)
    before = weights(model)
    calls = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(len(outputs))
        each = loss_fn(outputs, targets)
        return each * float("inf") if len(calls) == 5 else each

    knobs = {"fisher": "sample"} if name == "fisher_sam" else {"mask": "fisher"}
    optimizer = make(name, model, **knobs)
    [(x, y)] = batches(1)
    assert optimizer.step(GradientOracle(model, x, y, loss, check_finite=True)).skipped
    assert calls == [16, 1, 1, 1, 1]
    assert torch.equal(weights(model), before) and optimizer.memory == {}
