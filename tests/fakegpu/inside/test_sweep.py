"""A sweep whose trials share a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mps_program import install

import samtune

# A model of one's own, which notes the process that builds it.
MODEL = """
import os
from pathlib import Path
from torch import nn

def net(shape, classes):
    Path(__file__).with_name(f"process-{os.getpid()}").touch()
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
"""
SPACE = {
    "resources.gpus": 0.5,
    "resources.gpu_sharing": "mps",
    "resources.parallel": "auto",
    "task.model": "noted:net",
    "task.train_size": 0.3,
    "budget.kind": "epochs",
    "budget.per_trial": 2,
    "budget.trials": 2,
    "asha.grace": 1,
    "confirm.seeds": 1,
}


def test_two_trials_share_a_gpu_and_the_winner_is_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noted.py").write_text(MODEL)
    calls = install(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    run = samtune.run("sam", name="shared", set=SPACE, progress=False)
    trials, repeats = run.trials, run.leaderboard
    assert set(trials["state"]) <= {"completed", "pruned"} and len(trials) >= 2
    assert set(trials["device"]) == {"cuda"}
    assert set(trials["precision"]) == {"bf16"} and trials["channels_last"].all()
    assert repeats["repeats"].tolist() == [1]
    noted = {path.name for path in tmp_path.glob("process-*")} - {f"process-{os.getpid()}"}
    assert len(noted) == 2, "a worker for each half of the GPU"
    began, limit, ended = calls.read_text().splitlines()
    assert (began, ended) == ("-d; sees all", "quit; sees all")
    assert limit == "set_default_device_pinned_mem_limit 0 4096M; sees all", "half of 8 GB"
