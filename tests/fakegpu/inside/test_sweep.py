"""A sweep whose trials share a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mps_program import install

import samtune

SPACE = {
    "resources.gpus": 0.5,
    "resources.gpu_sharing": "mps",
    "resources.parallel": "auto",
    "task.model": "small_cnn",
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
    calls = install(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    run = samtune.run("sam", name="shared", set=SPACE, progress=False)
    trials, repeats = run.trials, run.leaderboard
    assert set(trials["state"]) <= {"completed", "pruned"} and len(trials) >= 2
    assert set(trials["device"]) == {"cuda"}
    assert set(trials["precision"]) == {"bf16"} and trials["channels_last"].all()
    assert repeats["repeats"].tolist() == [1]
    first, second = trials.sort_values("started_at").itertuples()
    assert second.started_at < first.ended_at, "side by side"
    began, limit, ended = calls.read_text().splitlines()
    assert (began, ended) == ("-d; sees all", "quit; sees all")
    assert limit == "set_default_device_pinned_mem_limit 0 4096M; sees all", "half of 8 GB"
