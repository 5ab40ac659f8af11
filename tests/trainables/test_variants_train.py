"""Every variant in the training loop: it trains, reports its radius, and resumes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digits_trial import MEASURED, CutError, assert_bitwise_equal
from torch import nn

from samtune.optimizers import VARIANTS, BayesianSAM
from samtune.trial import Budget, Seeds, TrialConfig, running
from trainables import checkpoint, evaluation, vision
from trainables.augment import Normaliser
from trainables.evaluation import Predictor, evaluate_samples
from trainables.models import MODELS
from trainables.precision import Precision
from trainables.split import Split

pytestmark = pytest.mark.usefixtures("one_thread")

CUTS = 20


def trained(name: str, cut_at: int | None = None, **changes: object) -> list[dict]:
    trainable = getattr(vision, name)
    config = TrialConfig(
        trainable=f"trainables.vision:{name}",
        variant=name,
        base=(*trainable.bases, "none")[0],
        knobs={},
        task={"dataset": "digits", "model": "small_cnn", "batch_size": 250},
        budget=Budget("epochs", 2),
        seeds=Seeds(1, 2, 3),
    )
    config = replace(config, **changes)
    reports: list[dict] = []

    def send(report: dict) -> None:
        reports.append(report)
        if report["epoch"] == cut_at:
            raise CutError

    with running(config, send):
        trainable(config)
    return reports


def unmeasured(report: dict) -> dict:
    metrics = report["metrics"]
    return {name: value for name, value in metrics.items() if name not in MEASURED}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_short_trial(name):
    first, last = (r["metrics"] for r in trained(name))
    assert all(math.isfinite(value) for value in last.values())
    assert last["val_acc"] >= 0 and last["step"] == 8
    assert ("rho" in last) == (name not in {"sgd", "adamw"})
    sampled = {f"val_{figure}_sampled" for figure in ("acc", "loss", "ece", "brier")}
    sampled |= {"val_sampled_forward_samples"}
    assert sampled & set(first) == set()
    assert sampled & set(last) == (sampled if name == "bayesian_sam" else set())


def test_a_confirmed_posterior_is_tested_at_its_mean_and_averaged():
    last = trained("bayesian_sam", test_permit="a test")[-1]["metrics"]
    assert 0 <= last["test_acc_sampled"] <= 1
    for figure in ("loss", "ece", "brier"):
        assert last[f"test_{figure}_sampled"] != last[f"test_{figure}"]
    assert math.isfinite(last["test_loss_sampled"])
    assert last["test_loss_sampled"] not in (last["test_loss"], last["val_loss_sampled"])
    assert last["val_sampled_forward_samples"] == 8 * 297


def test_the_posteriors_evaluations_are_as_many_as_the_task_says(monkeypatch):
    forwards = []
    predict = evaluation.Predictor.__call__

    def counted(self, split):
        forwards.append(len(split))
        return predict(self, split)

    monkeypatch.setattr(evaluation.Predictor, "__call__", counted)
    for draws in (0, 3):
        forwards.clear()
        task = {"batch_size": 250, "posterior_samples": draws}
        last = trained("bayesian_sam", task=task)[-1]["metrics"]
        # Two epochs, and the draws after the last.
        assert len(forwards) == 2 + draws
        assert ("val_acc_sampled" in last) == bool(draws)
        assert last.get("val_sampled_forward_samples", 0) == 297 * draws


@pytest.fixture
def tiny(monkeypatch):
    """A network that costs next to nothing, with buffers and random draws of its own."""

    def model(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
        channels, side, _ = in_shape
        block = nn.Conv2d(channels, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        head = nn.Dropout(0.1), nn.Flatten(), nn.Linear(4 * ((side + 1) // 2) ** 2, classes)
        return nn.Sequential(*block, *head)

    monkeypatch.setitem(MODELS, "small_cnn", model)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", VARIANTS)
def test_a_cut_trial_goes_on_bitwise(name, tmp_path, record_property):
    """Cut after each epoch but the last, in one chain: 2 steps an epoch, so most cuts lie within
    LookSAM's cycle of five."""
    changes = {
        "task": {"dataset": "digits", "model": "small_cnn", "batch_size": 500},
        "budget": Budget("epochs", CUTS + 1),
    }
    whole = trained(name, checkpoint_dir=str(tmp_path / "whole"), **changes)
    changes["checkpoint_dir"] = str(tmp_path / "cut")
    for epoch in range(1, CUTS + 1):
        with pytest.raises(CutError):
            trained(name, epoch, **changes)
        checkpoint.seed_rng(epoch)
    told = trained(name, **changes)
    assert [report["epoch"] for report in told] == [CUTS, CUTS + 1]
    assert [unmeasured(report) for report in told] == [unmeasured(each) for each in whole[-2:]]
    ours, theirs = (checkpoint.load(Path(each[-1]["checkpoint"])) for each in (told, whole))
    for part in ("model", "optimizer", "ranks"):
        assert_bitwise_equal(ours[part], theirs[part])
    record_property(f"cuts resumed bit for bit, {CUTS} of each variant", f"{CUTS} of {CUTS}")


@pytest.mark.parametrize("name", ["sam", "bayesian_sam"])
def test_the_report_shows_the_scheduled_radius(name):
    knobs = {"rho": 0.2, "rho_min": 0.1, "rho_schedule": "linear"}
    reports = trained(name, knobs=knobs)
    # The last step of eight begins at 7/8 of the budget.
    assert reports[-1]["metrics"]["rho"] == pytest.approx(0.1 + 0.1 / 8)


def test_gsams_radius_follows_the_warm_up_and_the_cosine():
    knobs = {"lr": 0.1, "rho_max": 0.4, "rho_schedule": "lr"}
    task = {"dataset": "digits", "model": "small_cnn", "batch_size": 250, "warmup": 1.5}
    reports = trained("gsam", knobs=knobs, task=task)
    shares = [r["metrics"]["lr"] / 0.1 for r in reports]
    assert [r["metrics"]["rho"] for r in reports] == pytest.approx([0.4 * s for s in shares])
    # The fourth step of six that rise; by the cosine alone 3/8 and 7/8 of the way down.
    cosines = [(1 + math.cos(math.pi * done / 8)) / 2 for done in (3, 7)]
    assert shares == pytest.approx([cosines[0] * 4 / 6, cosines[1]])


def test_samples_are_averaged_as_probabilities():
    """The mean is of probabilities, not of logits or losses."""
    g = torch.Generator().manual_seed(1)
    images = torch.randint(256, (40, 1, 4, 4), generator=g, dtype=torch.uint8)
    labels = torch.randint(3, (40,), generator=g)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    # A wide posterior: the draws differ, and so do the ways to average them.
    optimizer = BayesianSAM(model.parameters(), n_data=1, s_init=0.5)
    normalise = Normaliser(torch.tensor([127.5]), torch.tensor([74.0]))
    cpu = torch.device("cpu")
    predict = Predictor(model, normalise, Precision("fp32", False, False, cpu))
    found = evaluate_samples(
        predict, Split(images, torch.arange(40), labels), optimizer.sampled_weights, samples=2
    )

    inputs = ((images.double() - 127.5) / 74).flatten(1)
    each = []
    for sample in range(2):
        with optimizer.sampled_weights(sample):
            weight, bias = (p.detach().double() for p in model.parameters())
        each.append((inputs @ weight.T + bias).softmax(dim=1))
    p = (each[0] + each[1]) / 2
    assert found["loss"] == pytest.approx(-p[range(40), labels].log().mean().item(), rel=1e-5)
    assert found["acc"] == pytest.approx((p.argmax(dim=1) == labels).double().mean().item())
    apart = -torch.stack([q[range(40), labels].log().mean() for q in each]).mean()
    assert found["loss"] < 0.95 * apart.item()
