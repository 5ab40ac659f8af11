"""Schedules of the learning rate: against torch's, over any budget, and exact on resume."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from test_task import CutError, train
from torch.optim import lr_scheduler

from samtune.optimizers.knobs import KnobError
from samtune.trial import Budget
from trainables import vision
from trainables.schedule import KINDS, KNOBS, Schedule

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCHS = 20
TASK = {knob.name: knob.default for knob in KNOBS}
TORCH = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS),
    "constant": lambda o: lr_scheduler.ConstantLR(o, factor=1.0),
    "linear": lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, EPOCHS),
    "step": lambda o: lr_scheduler.StepLR(o, 6, 0.2),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [6, 12, 16], 0.2),
    "poly": lambda o: lr_scheduler.PolynomialLR(o, EPOCHS, 2.0),
}
WORDS: dict[str, dict[str, Any]] = {
    "step": {"lr_step": 0.3, "lr_gamma": 0.2},
    "multistep": {"lr_milestones": "0.3,0.6,0.8", "lr_gamma": 0.2},
    "poly": {"lr_power": 2.0},
}


def schedule(kind: str, lr: float = 0.5, **words: Any) -> Schedule:
    return Schedule.of({**TASK, "schedule": kind, **WORDS.get(kind, {}), **words}, lr)


@pytest.mark.parametrize("kind", KINDS)
def test_epoch_by_epoch_it_is_torchs(kind: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # No step of the optimizer comes before the scheduler's.
        theirs = TORCH[kind](optimizer)
        for epoch in range(EPOCHS):
            ours = 0.5 * schedule(kind).share(epoch / EPOCHS)
            assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9), epoch
            theirs.step()


def test_a_least_learning_rate_is_torchs_eta_min() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    theirs = lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS, eta_min=0.1)
    for epoch in range(EPOCHS):
        ours = 0.5 * schedule("cosine", min_lr=0.1).share(epoch / EPOCHS)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("kind", KINDS)
def test_no_schedule_falls_below_the_least_or_rises(kind: str) -> None:
    found = schedule(kind, min_lr=0.1)
    shares = [found.share(k / 50) for k in range(60)]
    assert shares[0] == 1.0 and min(shares[:51]) >= 0.2 - 1e-12
    assert all(later <= share + 1e-12 for share, later in itertools.pairwise(shares[:51]))
    # A least rate above a trial's own lr leaves it constant.
    assert {schedule(kind, lr=0.05, min_lr=0.1).share(k / 50) for k in range(51)} == {1.0}


@pytest.mark.parametrize("value", ["", "0.5,0.2", "0.5,0.5", "0,0.5", "0.5,1", "a", "nan", 3])
def test_milestones_that_are_none_are_refused(value: object) -> None:
    knob = next(knob for knob in KNOBS if knob.name == "lr_milestones")
    with pytest.raises(KnobError, match="must be shares of the budget in ascending order"):
        knob.check(value)
    assert knob.check("0.3, 0.6") == "0.3, 0.6" and knob.check(0.5) == "0.5"


def rates(**words: Any) -> list[float]:
    budget = words.pop("budget", Budget("epochs", 10))
    reports = train(vision.sgd, knobs={"lr": 0.2}, budget=budget, **words)
    return [report["metrics"]["lr"] for report in reports]


@pytest.mark.parametrize("batch_size", [1000, 250])
def test_every_epoch_is_a_staircase(batch_size: int) -> None:
    found = rates(batch_size=batch_size, every="epoch", schedule="linear")
    assert found == pytest.approx([0.2 * (1 - epoch / 10) for epoch in range(10)])
    fine = rates(batch_size=batch_size, schedule="linear")
    last = (1000 // batch_size - 1) / (1000 // batch_size)
    assert fine == pytest.approx([0.2 * (1 - (epoch + last) / 10) for epoch in range(10)])


def test_every_epoch_warms_up_by_epochs() -> None:
    found = rates(batch_size=250, every="epoch", schedule="constant", warmup=4)
    assert found == pytest.approx([0.2 * min(1.0, (epoch + 1) / 4) for epoch in range(10)])


@pytest.mark.parametrize(
    ("kind", "words", "wanted"),
    [
        ("step", {"lr_gamma": 0.5}, [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]),
        ("step", {"lr_step": 0.5}, [1] * 5 + [0.1] * 5),
        ("multistep", {}, [1] * 5 + [0.1] * 3 + [0.01] * 2),
        ("multistep", {"lr_milestones": "0.2"}, [1] * 2 + [0.1] * 8),
        ("poly", {"lr_power": 2.0}, [(1 - k / 10) ** 2 for k in range(10)]),
        ("constant", {"min_lr": 0.1}, [1] * 10),
    ],
)
def test_the_words_of_a_schedule_reach_the_trial(
    kind: str, words: dict[str, Any], wanted: list[float]
) -> None:
    found = rates(batch_size=1000, schedule=kind, **words)
    assert found == pytest.approx([0.2 * share for share in wanted])


def test_a_budget_of_compute_has_the_schedule_of_its_epochs() -> None:
    """Eleven epochs of cost two, in a budget of 22."""
    found = train(
        vision.sam, knobs={"lr": 0.2}, budget=Budget("compute", 20), batch_size=500, every="epoch"
    )
    plain = rates(batch_size=500, every="epoch")
    assert [report["metrics"]["lr"] for report in found] == pytest.approx(plain)


def test_a_radius_tied_to_lr_follows_the_schedule() -> None:
    knobs = {"lr": 0.2, "rho": 0.4, "rho_min": 0.1, "rho_schedule": "lr"}
    reports = train(
        vision.sam, knobs=knobs, budget=Budget("epochs", 4), batch_size=1000, schedule="linear"
    )
    found = [report["metrics"]["rho"] for report in reports]
    assert found == pytest.approx([0.1 + 0.3 * (1 - epoch / 4) for epoch in range(4)])


@pytest.mark.parametrize("kind", ["multistep", "poly"])
@pytest.mark.parametrize("every", ["step", "epoch"])
def test_a_trial_cut_goes_on_bitwise(tmp_path: Path, kind: str, every: str) -> None:
    words: dict[str, Any] = {
        **{"schedule": kind, "every": every, "min_lr": 0.01, "warmup": 1.5, "batch_size": 300},
        "budget": Budget("compute", 8),
    }
    whole = train(checkpoint_dir=str(tmp_path / "whole"), **words)
    with pytest.raises(CutError):
        train(checkpoint_dir=str(tmp_path / "cut"), cut_at=2, **words)
    rest = train(checkpoint_dir=str(tmp_path / "cut"), **words)
    by_epoch = {report["epoch"]: report["metrics"] for report in whole}
    assert rest and len(whole) == 4
    for report in rest:
        for name in ("lr", "train_loss", "val_loss"):
            assert report["metrics"][name] == by_epoch[report["epoch"]][name]
