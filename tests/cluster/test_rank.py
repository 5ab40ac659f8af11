"""The part of a group's rank that needs no Ray: what it runs, and how it ends."""

from __future__ import annotations

import os
import queue
import sys
from pathlib import Path
from typing import Any

import pytest

from samtune.cluster.ranks import Rank
from samtune.record.logs import log_path
from samtune.record.provenance import hostname_hash
from samtune.trial import Budget, Seeds, TrialConfig

LAB = """
import os
import random
import sys
from pathlib import Path

import numpy as np

import samtune


def ranked(config):
    say(f"rank {os.environ['RANK']} {random.random()} {np.random.rand()}")
    Path("seen").touch()
    os.environ["LAB_LEFT"] = "1"
    match config.knobs["mode"]:
        case "exit":
            sys.exit(0)
        case "fail":
            sys.exit(4)
    samtune.report(epoch=1, val_acc=0.5)
    say("went on")


def say(line):
    # pytest has a stdout of its own.
    os.write(1, f"{line}\\n".encode())
"""


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a rank on a lab trainable: its failure and its log."""
    (tmp_path / "rank_lab.py").write_text(LAB)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.chdir(tmp_path)

    def train(mode: str, rank: str = "1", goes_on: bool = True, seed: int = 1) -> Any:
        answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        answers.put(goes_on)
        monkeypatch.setattr(queue, "SimpleQueue", lambda: answers)
        config = TrialConfig(
            **{"trainable": "rank_lab:ranked", "variant": "toy", "base": "none", "task": {}},
            **{"knobs": {"mode": mode}, "budget": Budget("epochs", 9)},
            seeds=Seeds(seed, seed, seed),
        )
        log = log_path(tmp_path, int(rank))
        log.unlink(missing_ok=True)
        sent = {
            "trial": config.to_dict(),
            **{"path": [], "by_value": None, "log": str(log)},
            **{"host": hostname_hash(), "folder": str(tmp_path)},
        }
        os.chdir("/")
        return Rank().train(sent, {"RANK": rank}), log_path(tmp_path, int(rank)).read_text()

    yield train
    sys.modules.pop("rank_lab", None)


def test_a_rank_is_seeded_logged_and_leaves_nothing(trained: Any, tmp_path: Path) -> None:
    failure, log = trained("good")
    assert failure is None and log.endswith("went on\n")
    assert (tmp_path / "seen").exists(), "it stood in the command's folder"
    assert "LAB_LEFT" not in os.environ and "RANK" not in os.environ
    _, other = trained("good", rank="2")
    assert other.split()[2:4] == log.split()[2:4], "all ranks draw the same"
    assert trained("good", seed=2)[1].split()[2:4] != log.split()[2:4]


def test_a_rank_stops_with_the_trial(trained: Any) -> None:
    failure, log = trained("good", goes_on=False)
    assert failure is None and "went on" not in log


def test_an_exit_of_a_rank_is_a_return_or_a_failure(trained: Any) -> None:
    assert trained("exit")[0] is None
    assert trained("fail")[0]["error"] == "SystemExit: 4"
