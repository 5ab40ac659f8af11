"""bSAM: its values by hand, its noise, and samples of the weights."""

from __future__ import annotations

import math

import problems
import pytest
import torch
from problems import Quadratic, batches, close, make, on_q, plain_net, seeded, train
from torch import nn

from samtune.optimizers import BayesianSAM

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
    close(variant.memory["s"][0], s)
    if not any(n):
        on_q(variant, model)
        close(model.weight, (2.324309984806525, -0.385473497566956))
        close(variant.memory["s"][0], (1.004160834332034, 1.003979325980829))


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
