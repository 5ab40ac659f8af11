"""Every variant in the training loop: it trains, reports its radius, and resumes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from samtune.optimizers import VARIANTS
from samtune.trial import Budget, Seeds, TrialConfig, running
from trainables import vision


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class CutError(Exception):
    """The worker dies here."""


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


@pytest.mark.parametrize("name", VARIANTS)
def test_a_short_trial(name):
    first, last = (r["metrics"] for r in trained(name))
    assert all(math.isfinite(value) for value in last.values())
    assert last["val_acc"] >= 0 and last["step"] == 8
    assert ("rho" in last) == (name not in {"sgd", "adamw"})
    sampled = {"val_acc_sampled", "val_loss_sampled"}
    assert sampled & set(first) == set()
    assert sampled & set(last) == (sampled if name == "bayesian_sam" else set())


@pytest.mark.parametrize("name", ["bayesian_sam", "esam", "look_sam"])
def test_a_cut_trial_goes_on_bitwise(name, tmp_path):
    whole = trained(name, checkpoint_dir=str(tmp_path / "whole"))
    with pytest.raises(CutError):
        trained(name, 1, checkpoint_dir=str(tmp_path / "cut"))
    rest = trained(name, checkpoint_dir=str(tmp_path / "cut"))
    for key in ("train_loss", "val_loss", "val_acc", "lr", "see"):
        assert rest[-1]["metrics"][key] == whole[-1]["metrics"][key]


def test_the_report_shows_the_scheduled_radius():
    knobs = {"rho": 0.2, "rho_min": 0.1, "rho_schedule": "linear"}
    reports = trained("sam", knobs=knobs)
    # The last step of eight begins at 7/8 of the budget.
    assert reports[-1]["metrics"]["rho"] == pytest.approx(0.1 + 0.1 / 8)
