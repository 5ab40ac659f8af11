"""What samtune uses of Ray beyond its public API: each fails here if Ray has changed it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from unittest import mock

import psutil
import pytest
from ray import cloudpickle
from ray.air.execution._internal import RayActorManager
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError
from ray.tune.experiment import Trial

from samtune.cluster.ray_internals import (
    ended_tune_for_memory,
    forget,
    was_killed_for_memory,
)
from samtune.cluster.start import Cluster


def trial(name: str = "a") -> Trial:
    return Trial("stub", stub=True, trial_id=name, config={"lr": 0.1})


def test_a_forgotten_trial_is_small() -> None:
    kept = trial()
    kept.set_status(Trial.RUNNING)
    kept.update_last_result({"val_acc": 0.5, "report": "all of it" * 1000})
    assert kept.last_result["report"] and kept.metric_analysis and kept.metric_n_steps
    kept.set_status(Trial.TERMINATED)
    forget(kept)
    assert "report" not in kept.last_result and kept.is_finished()
    assert not (kept.metric_analysis or kept.metric_n_steps or kept.config)
    assert b"all of it" not in cloudpickle.dumps(vars(kept.run_metadata))


@pytest.mark.parametrize(
    ("error", "of_memory"),
    [
        (OutOfMemoryError("the node is running low on memory"), True),
        (ActorDiedError(), False),
        (RayTaskError("train", "Traceback", ValueError("bad luck")), False),
    ],
)
def test_a_kill_for_memory_is_told_from_other_deaths(
    error: Exception, of_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trial, "local_path", property(lambda self: str(tmp_path)))
    dead = trial()
    assert not was_killed_for_memory(dead)
    dead.handle_error(error)
    assert was_killed_for_memory(dead) == of_memory


def test_a_kill_for_memory_during_a_trial_ends_tune() -> None:
    manager = RayActorManager(resource_manager=mock.Mock())
    with pytest.raises(RuntimeError) as ended:
        manager._actor_task_failed(mock.Mock(), OutOfMemoryError("low on memory"))
    assert ended_tune_for_memory(ended.value)
    assert not ended_tune_for_memory(RuntimeError("another"))


def test_ray_starts_no_worker_before_it_is_needed(two_slots: Cluster) -> None:
    running = []
    for child in psutil.Process().children(recursive=True):
        # One that has ended meanwhile.
        with contextlib.suppress(psutil.Error):
            running.append(" ".join(child.cmdline()))
    assert any("raylet" in words for words in running), "what Ray starts would be seen"
    assert not [words for words in running if words.startswith("ray::IDLE")]
    workers = [words for words in running if "default_worker" in words.split("raylet ")[0]]
    assert not workers
