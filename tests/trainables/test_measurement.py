"""The sharpness of a trained model: the columns of a repeat."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digits_trial import config_of, train

from samtune.trial import Budget
from trainables import loop, vision
from trainables.checkpoint import CheckpointError
from trainables.measurement import Measurement

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = Measurement(samples=32, m=16)


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "Measurement", lambda: QUICK)


def test_a_repeat_measures_itself_once_and_as_its_checkpoint_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    config = config_of(vision.sam, budget=Budget("epochs", 2), checkpoint_dir=str(tmp_path))
    config = replace(config, task={**config.task, "val_size": 100})
    first, last = train(replace(config, sharpness=True))
    assert not [name for name in first["metrics"] if name.startswith("sharp_")]
    own = {name: v for name, v in last["metrics"].items() if name.startswith("sharp_")}
    with warnings.catch_warnings():
        # The trial has already recorded the warnings about its data.
        warnings.simplefilter("error")
        again = vision.sam.sharpness(config, {"samples": 32, "m": 16})
    assert {**own, "sharp_bn_mode": last["facts"]["sharp_bn_mode"]} == again
    assert own["sharp_lambda_max"] > 0 and own["sharp_worst_rho"] > own["sharp_worst_adaptive"] > 0


def test_measuring_changes_nothing_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    config = config_of(vision.sgd, budget=Budget("epochs", 1), test_permit="p")
    (plain,) = train(config)
    (measured,) = train(replace(config, sharpness=True))
    for name in ("train_loss", "val_loss", "test_loss"):
        assert plain["metrics"][name] == measured["metrics"][name]


def test_a_model_that_cannot_be_measured_keeps_its_repeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Full:
        batch_norm = "eval"

        def of(self, *_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(loop, "Measurement", Full)
    config = config_of(vision.sgd, budget=Budget("epochs", 1), sharpness=True)
    (report,) = train(config)
    assert "sharp_trace" not in report["metrics"] and "val_acc" in report["metrics"]
    assert report["warnings"] == [
        "sharpness was not measured: CUDA out of memory. Tried to allocate 2 GiB"
    ]


def test_without_a_checkpoint_there_is_nothing_to_measure(tmp_path: Path) -> None:
    config = config_of(vision.sgd, checkpoint_dir=str(tmp_path / "none"))
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        vision.sgd.sharpness(config, {})
