"""The one training loop: spends its budget exactly, and never sees the test split."""

from __future__ import annotations

import base64
import math
import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_trial import ALL, MEASURED, Report, assert_bitwise_equal, config_of, curve, train
from ray import cloudpickle
from torch import nn

from samtune.optimizers import GradientOracle
from samtune.optimizers.knobs import KnobError
from samtune.trial import Budget, Seeds, running
from trainables import checkpoint, data, loop, vision
from trainables.datasets import digits
from trainables.models import ModelError, build
from trainables.task import TASK

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("trainable", "base", "epochs", "passes"),
    [
        (vision.sgd, "sgd", 4, 1),
        (vision.adamw, "adamw", 4, 1),
        (vision.sam, "sgd", 2, 2),
        (vision.asam, "adamw", 2, 2),
    ],
)
def test_a_compute_budget_is_spent_to_the_sample(
    trainable: vision.Vision, base: str, epochs: int, passes: int
) -> None:
    reports = train(config_of(trainable, base, budget=Budget("compute", 4)))
    assert [report["epoch"] for report in reports] == list(range(1, epochs + 1))
    for epoch, report in enumerate(reports, start=1):
        metrics = report["metrics"]
        assert metrics["forward_samples"] == passes * epoch * 1000
        assert metrics["backward_samples"] == passes * epoch * 1000
        assert metrics["see"] == report["used"] == passes * epoch
        # 15 batches of 64 and a last one of 40.
        assert metrics["step"] == 16 * epoch
        assert metrics["skipped_steps"] == 0
    assert trainable.see_per_epoch({}, base) == passes


@pytest.mark.parametrize(
    ("batch_size", "steps"),
    [(1000, 1), (999, 1), (998, 2), (499, 3), (333, 3), (37, 27), (5000, 1)],
)
def test_a_ragged_last_batch_is_trained_on(batch_size: int, steps: int) -> None:
    """This holds below half of a full step too. A single image joins the batch before it."""
    config = config_of(vision.sgd)
    reports = train(replace(config, task={**config.task, "batch_size": batch_size}))
    assert [report["metrics"]["see"] for report in reports] == [1, 2]
    assert reports[-1]["metrics"]["step"] == 2 * steps


@pytest.mark.parametrize(
    ("kind", "per_trial", "steps"),
    # An SGD step of 64 costs 0.064 see: 0.53 see are 8.3 steps, 0.55 are 8.6.
    [
        ("compute", 0.53, 8),
        ("compute", 0.55, 9),
        ("compute", 1.5, 24),
        ("compute", 1e-6, 1),
        ("epochs", 0.5, 8),
        ("epochs", 1.25, 20),
        ("epochs", 2, 32),
    ],
)
def test_a_budget_ends_at_the_nearest_step(kind: Any, per_trial: float, steps: int) -> None:
    reports = train(config_of(vision.sgd, budget=Budget(kind, per_trial)))
    assert reports[-1]["metrics"]["step"] == steps
    assert reports[-1]["epoch"] == len(reports) == math.ceil(steps / 16)


def test_a_budget_of_seconds_is_kept() -> None:
    reports = train(config_of(vision.sgd, budget=Budget("seconds", 0.3)))
    spent = [report["metrics"]["train_s"] for report in reports]
    assert spent == sorted(spent)
    assert 0.15 < spent[-1] < 3
    assert reports[-1]["used"] == spent[-1]
    assert reports[-1]["metrics"]["lr"] < 0.025, "the cosine runs over the seconds"
    assert not reports[-1]["facts"]["deterministic"]


@pytest.mark.parametrize("kind", ["compute", "epochs"])
def test_the_learning_rate_follows_the_cosine(kind: Any) -> None:
    reports = train(config_of(vision.sgd, budget=Budget(kind, 3)))
    for report, step in zip(reports, (15, 31, 47), strict=True):
        # The last step of an epoch starts with its 40 images to go, or with a 16th of it.
        done = (step - 15) / 16 + (0.96 if kind == "compute" else 15 / 16)
        expected = 0.05 * (1 + math.cos(math.pi * done / 3)) / 2
        assert report["metrics"]["lr"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize("trainable", [vision.sam, vision.asam])
def test_with_rho_0_the_curve_is_the_base_optimizers_bitwise(
    trainable: vision.Vision, base: str
) -> None:
    budget = Budget("epochs", 3)
    plain = config_of(getattr(vision, base), base, budget=budget)
    flat = config_of(trainable, base, budget=budget, knobs={**plain.knobs, "rho": 0.0})
    second = {"rho", "see", "forward_samples", "backward_samples", "sam_loss_gap", "cos_grads"}
    others = frozenset(second)
    assert curve(train(flat), without=others) == curve(train(plain), without=others)


def test_equal_seeds_give_equal_curves_whatever_ran_before() -> None:
    config = config_of(vision.sam)
    first = curve(train(config))
    torch.rand(7), np.random.rand(7), random.random()
    train(config_of(vision.adamw, "adamw", seeds=Seeds(9, 9, 9)))
    assert curve(train(config)) == first


def test_each_epoch_takes_every_image_once_in_an_order_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[torch.Tensor] = []

    def spy(model: Any, inputs: torch.Tensor, *rest: Any, **how: Any) -> GradientOracle:
        taken.append(inputs.clone())
        return GradientOracle(model, inputs, *rest, **how)

    monkeypatch.setattr("trainables.steps.GradientOracle", spy)
    train(config_of(vision.sgd))
    first, second = (
        [image.numpy().tobytes() for batch in epoch for image in batch]
        for epoch in (taken[:16], taken[16:])
    )
    assert len(set(first)) == len(first) == 1000
    assert set(first) == set(second)
    assert first != second


@pytest.mark.parametrize("seeds", [Seeds(0, 2, 3), Seeds(1, 0, 3), Seeds(1, 2, 0)])
def test_each_seed_matters(seeds: Seeds) -> None:
    config = config_of(vision.sgd)
    assert curve(train(replace(config, seeds=seeds))) != curve(train(config))


@pytest.mark.parametrize("trainable", ALL, ids=lambda t: t.variant)
def test_batch_norm_sees_each_step_once_and_no_evaluation(
    trainable: vision.Vision, tmp_path: Path
) -> None:
    last = train(config_of(trainable, trainable.bases[0], checkpoint_dir=str(tmp_path)))[-1]
    model = checkpoint.load(Path(last["checkpoint"]))["model"]
    assert model["1.num_batches_tracked"] == last["metrics"]["step"] > 0


@pytest.mark.parametrize("trainable", [vision.sgd, vision.sam], ids=lambda t: t.variant)
def test_a_diverged_trial_ends_with_its_first_non_finite_report(
    trainable: vision.Vision, tmp_path: Path
) -> None:
    config = config_of(
        trainable,
        knobs={"lr": 1e30},
        budget=Budget("epochs", 5),
        checkpoint_dir=str(tmp_path),
        test_permit="a test",
    )
    reports = train(config)
    *before, last = reports
    assert len(reports) < 5
    assert not math.isfinite(last["metrics"]["train_loss"] + last["metrics"]["val_loss"])
    assert all(math.isfinite(report["metrics"]["train_loss"]) for report in before)
    assert last["checkpoint"] is None
    assert "test_acc" not in last["metrics"]


def test_a_search_trial_never_opens_the_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the test split was opened")

    monkeypatch.setattr(loop, "open_test", refuse)
    reports = train(config_of(vision.sgd))
    assert not [name for report in reports for name in report["metrics"] if "test" in name]
    with pytest.raises(AssertionError, match="was opened"):
        train(config_of(vision.sgd, test_permit="a test"))


def test_a_confirmed_trial_opens_the_test_split_once_at_its_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = []

    def counted(task: Any, seed: int, permit: str | None) -> data.Split:
        opened.append((seed, permit))
        return data.open_test(task, seed, permit)

    monkeypatch.setattr(loop, "open_test", counted)
    config = config_of(vision.sam, test_permit="p-1", checkpoint_dir=str(tmp_path))
    *before, last = train(replace(config, budget=Budget("compute", 10)))
    assert opened == [(3, "p-1")]
    assert not [name for report in before for name in report["metrics"] if "test" in name]
    metrics = last["metrics"]
    assert metrics["n_test"] == 500
    assert metrics["test_acc"] == metrics["test_correct"] / 500
    assert metrics["test_loss"] == metrics["test_nll"] > 0
    assert 0 <= metrics["test_ece"] <= 1
    assert 0 < metrics["test_brier"] < 2
    bits = last["facts"]["test_bits"]
    hits = np.unpackbits(np.frombuffer(base64.b64decode(bits), np.uint8), count=500)
    assert hits.sum() == metrics["test_correct"] and len(base64.b64decode(bits)) == 63
    assert not {"test_bits", "test_split"} & before[-1]["facts"].keys()
    again = train(replace(config, budget=Budget("compute", 10)))
    assert len(opened) == 1, "a finished trial reports again and opens nothing"
    assert curve(again) == curve([last]) and again[0]["facts"] == last["facts"]


def test_it_learns() -> None:
    """Well above chance on clean validation labels, from noisy training labels."""
    last = train(config_of(vision.sgd, budget=Budget("compute", 5)))[-1]["metrics"]
    assert last["val_acc"] > 0.7
    # 64 % of the training labels are right, and few of the wrong ones are learnt so soon.
    assert last["train_acc"] < 0.75


def test_a_report_holds_what_the_record_asks_for() -> None:
    report = train(config_of(vision.sam))[0]
    assert set(report["metrics"]) == MEASURED | {
        "step",
        "see",
        "forward_samples",
        "backward_samples",
        "skipped_steps",
        "lr",
        "rho",
        "sam_loss_gap",
        "cos_grads",
        "train_loss",
        "train_acc",
        "val_loss",
        "val_acc",
    }
    assert report["facts"] == {
        "n_train": 1000,
        "n_val": 297,
        "n_params": 19258,
        "device": "cpu",
        "threads": 1,
        "precision": "fp32",
        "compiled": False,
        "channels_last": False,
        "data_sha256": digits.SHA256,
        "torch_version": str(torch.__version__),
        "deterministic": True,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"knobs": {"lr": 0.1, "roh": 1.0}}, "roh; did you mean rho"),
        ({"knobs": {"lr": -1.0}}, "lr is -1"),
        ({"task": {"dataset": "digit"}}, "did you mean digits"),
        ({"task": {"model": "resnet"}}, "unknown model 'resnet'; did you mean 'resnet"),
        ({"task": {"batchsize": 64}}, "did you mean batch_size"),
        ({"task": {"label_noise": 2.0}}, "label_noise is 2"),
        ({"task": {"batch_size": 0}}, "batch_size is 0"),
        ({"base": "adamw2"}, "did you mean adamw"),
        ({"base": "muon"}, "has no base 'muon'; write `base: torch.optim.Muon`"),
        ({"variant": "asam"}, "runs sam, not 'asam'"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_before_training(
    change: dict[str, Any], message: str
) -> None:
    reports: list[Report] = []
    config = replace(config_of(vision.sam), **change)
    with running(config, reports.append), pytest.raises(ValueError, match=message):
        vision.sam(config)
    assert not reports


def test_sgd_has_no_rho() -> None:
    with pytest.raises(KnobError, match="sgd on sgd has no knob rho"):
        train(config_of(vision.sgd, knobs={"lr": 0.1, "rho": 0.05}))


@pytest.mark.parametrize("trainable", ALL, ids=lambda t: t.variant)
def test_a_trainable_declares_its_words_and_pickles_by_reference(
    trainable: vision.Vision,
) -> None:
    assert getattr(vision, trainable.variant) is trainable
    assert pickle.loads(pickle.dumps(trainable)) is trainable
    assert cloudpickle.loads(cloudpickle.dumps(trainable)) is trainable
    assert len(cloudpickle.dumps(trainable)) < 200
    for base in trainable.bases:
        assert "lr" in trainable.knobs(base)
        assert ("rho" in trainable.knobs(base)) == (trainable.variant in {"sam", "asam"})
    assert set(trainable.task) == set(TASK) >= {knob.name for knob in data.TASK}
    for knob in trainable.task.values():
        assert knob.check(knob.default) == knob.default


def test_a_model_is_drawn_from_its_seed_alone() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    models = [build("small_cnn", (1, 8, 8), 10, seed) for seed in (4, 4, 5)]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (model.state_dict() for model in models)
    assert_bitwise_equal(first, again)
    assert not torch.equal(first["0.weight"], other["0.weight"])
    with pytest.raises(ModelError, match="did you mean 'small_cnn'"):
        build("smal_cnn", (1, 8, 8), 10, 0)


@pytest.mark.parametrize("in_shape", [(1, 8, 8), (3, 32, 32), (3, 37, 53)])
def test_the_small_cnn_takes_images_of_any_size(in_shape: tuple[int, int, int]) -> None:
    model = build("small_cnn", in_shape, 7, 0)
    assert model(torch.zeros(2, *in_shape)).shape == (2, 7)


def flat_norm(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a network that cannot normalise a single image: it has one value per channel."""
    pixels = in_shape[0] * in_shape[1] * in_shape[2]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes)
    )


def test_batches_of_one_are_refused_before_a_sweep_where_batch_norm_cannot_take_them() -> None:
    task = {name: knob.default for name, knob in TASK.items()} | {"dataset": "digits"}
    with pytest.raises(ModelError, match=r"task.batch_size is 1, and the model .* 2 or more"):
        vision.sam.make_ready({**task, "model": "resnet18", "batch_size": 1})
    for model, batch_size in (("resnet18", 2), ("small_cnn", 1), ("vit_tiny", 1)):
        vision.sam.make_ready({**task, "model": model, "batch_size": batch_size})


@pytest.mark.parametrize(
    ("name", "batch_size", "knobs"),
    [
        # Of 1000 images there is a last batch of 1, 2, 8, 3 or 2.
        ("sgd", 37, {}),
        ("k_sam", 499, {}),
        ("bayesian_sam", 124, {"m": 8}),
        ("sam", 997, {"m": 2}),
        ("esam", 499, {"gamma": 0.3}),
    ],
)
def test_every_rest_of_an_epoch_can_be_normalised(
    name: str, batch_size: int, knobs: dict[str, Any]
) -> None:
    trainable = getattr(vision, name)
    config = config_of(trainable, budget=Budget("epochs", 1))
    task = {**config.task, "model": "test_vision:flat_norm", "batch_size": batch_size}
    reports = train(replace(config, task=task, knobs=knobs))
    assert math.isfinite(reports[-1]["metrics"]["train_loss"])
