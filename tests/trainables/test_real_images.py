"""The real CIFAR-10 images on the CPU: a shipped space shrunk by --set, and what it learns.

They skip where there is no folder of the real images.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REAL, needs_real_images

from samtune.record import tables
from samtune.trial import Budget, Seeds, TrialConfig, running
from trainables import vision

pytestmark = [pytest.mark.slow, needs_real_images]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The images, to be decoded once for this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMTUNE_DATA_ROOT", str(tmp_path_factory.mktemp("store")))
        yield f"parquet:{(REAL / 'cifar10-jpeg').resolve()}"


@pytest.mark.timeout(600)
def test_a_shipped_space_shrunk_by_set_sweeps_the_real_images(store: str, tmp_path: Path) -> None:
    changes = {
        "task.dataset": store,
        "task.model": "small_cnn",
        "task.train_size": 0.05,
        "task.val_size": 0.02,
        "task.precision": "fp32",
        "task.compile": "false",
        "budget.per_trial": 4,
        "budget.trials": 3,
        "asha.grace": 2,
        "resources.gpus": 0,
    }
    words = [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from samtune.cli import main; main()"),
            *("run", "cifar10_resnet18", *words, "--name", "real", "--seeds", "2", "--json"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    row = json.loads(done.stdout)["rows"][0]
    assert row["repeats"] == 2
    # Two epochs of SAM on 2,450 images: far from good, and well above one in ten.
    assert row["test_acc_mean"] > 0.2
    trials = tables.read(tmp_path / "runs" / "real" / "trials.parquet", "trials").to_pylist()
    assert {trial["state"] for trial in trials} <= {"completed", "pruned"}
    assert [trial["n_train"] for trial in trials] == [2450] * 3
    for name, value in {
        "augment": "standard",
        "precision": "fp32",
        "compiled": False,
        "channels_last": False,
        "model": "small_cnn",
    }.items():
        assert {trial[name] for trial in trials} == {value}


def test_training_on_real_images_learns(store: str) -> None:
    """SAM with crops and flips: the training loss falls each epoch, validation is far from 0.1."""
    threads = torch.get_num_threads()
    config = TrialConfig(
        trainable="trainables.vision:sam",
        variant="sam",
        base="sgd",
        knobs={"lr": 0.1, "rho": 0.05},
        task={
            "dataset": store,
            "model": "small_cnn",
            "augment": "standard",
            "train_size": 0.1,
            "val_size": 0.04,
        },
        budget=Budget("epochs", 4),
        seeds=Seeds(1, 2, 3),
    )
    reports: list[dict[str, Any]] = []
    with running(config, reports.append):
        vision.sam(config)
    torch.set_num_threads(threads)
    losses = [report["metrics"]["train_loss"] for report in reports]
    assert losses == sorted(losses, reverse=True)
    assert reports[-1]["metrics"]["val_acc"] > 0.25
