"""The cost of variants that save passes, perturbed weights or samples."""

from __future__ import annotations

import problems
import pytest
import torch
from problems import (
    Zoo,
    batches,
    close,
    flat,
    gradients,
    loss_fn,
    make,
    on_q,
    perturbations,
    plain_net,
    q,
    seeded,
    train,
)
from torch import nn

from samtune.optimizers import VARIANTS, GradientOracle

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
    assert optimizer.memory["mu"] == pytest.approx(mu, rel=1e-12)
    assert optimizer.memory["variance"] == pytest.approx(variance, rel=1e-12)


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
        masks.append(flat(optimizer.memory["mask"]) > 0)
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[2], masks[3])
    old, new, g = masks[1], masks[2], gs[2].abs()
    live = int(old.sum())
    # By the cosine at half of the training: half of 0.4.
    replaced = int(live * 0.2)
    assert int((old & ~new).sum()) == int((new & ~old).sum()) == replaced > 0
    assert g[old & ~new].max() <= g[old & new].min()


def test_sparse_sam_keeps_the_mask_of_a_tensor_without_a_gradient():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.always, self.sometimes = nn.Linear(6, 3), nn.Linear(6, 3, bias=False)
            self.uses = True

        def forward(self, x):
            return self.always(x) + (self.sometimes(x) if self.uses else 0)

    model = seeded(Sometimes)
    optimizer = make("sparse_sam", model, update_freq=1, drop_rate=1.0)
    eps, masks = perturbations(optimizer), []
    for model.uses in (True, False, True):
        train(optimizer, model, batches(1))
        masks.append(optimizer.memory["mask"])
    assert not torch.equal(masks[1][0], masks[0][0])
    assert torch.equal(masks[1][2], masks[0][2])
    assert torch.equal((eps[2][2] != 0).double(), masks[2][2]) and (eps[2][2] == 0).any()


def test_sparse_sam_leaves_the_global_generator_alone():
    states = []
    for name in ("sparse_sam", "sam"):
        torch.manual_seed(3)
        model = seeded(plain_net)
        train(make(name, model), model, batches(2))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


# Costs, and K-SAM.


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
