"""Tests of the sums of a training epoch: loss, hits and sharpness."""

from __future__ import annotations

import math

import torch
from digits_trial import config_of, train

from samtune.optimizers import StepResult
from samtune.trial import Budget
from trainables import vision
from trainables.parallel import ALONE
from trainables.sums import Sums


def result(loss: float, sharp: float | None = None, cosine: float | None = None) -> StepResult:
    def tensor(value: float | None) -> torch.Tensor | None:
        return None if value is None else torch.tensor(value)

    outputs = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    return StepResult(torch.tensor(loss), outputs, 2, 2, False, tensor(sharp), tensor(cosine))


def test_each_mean_is_over_the_steps_that_have_the_figure() -> None:
    sums, targets = Sums(torch.device("cpu")), torch.tensor([0, 1])
    sums.add(result(1.0, 1.5, 0.5), targets, 1)
    sums.add(result(2.0, 2.25), targets, 1)
    sums.add(result(6.0), targets, 1)
    sums.settle(ALONE)
    assert sums.trained() == {"train_loss": 3.0, "train_acc": 0.5}
    assert sums.sharpness() == {"sam_loss_gap": 0.375, "cos_grads": 0.5}


def test_an_epoch_without_steps_has_no_loss_and_no_sharpness() -> None:
    sums = Sums(torch.device("cpu"))
    sums.settle(ALONE)
    assert math.isnan(sums.trained()["train_loss"])
    assert sums.sharpness() == {}


def test_every_report_of_a_two_pass_variant_has_both_figures() -> None:
    budget = Budget("epochs", 2)
    wide = train(config_of(vision.sam, budget=budget, knobs={"lr": 0.05, "rho": 0.2}))
    near = train(config_of(vision.sam, budget=budget, knobs={"lr": 0.05, "rho": 0.02}))
    assert len(wide) == len(near) == 2
    for far, close in zip(wide, near, strict=True):
        assert 0 < close["metrics"]["sam_loss_gap"] < far["metrics"]["sam_loss_gap"]
        assert 1 > close["metrics"]["cos_grads"] > far["metrics"]["cos_grads"] > 0
    plain = train(config_of(vision.sgd, budget=Budget("epochs", 1)))
    assert not {"sam_loss_gap", "cos_grads"} & plain[0]["metrics"].keys()
