"""Sweeps whose workers Ray kills because a machine runs low on memory: Tune then ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError

import samtune
from samtune.api import stages
from samtune.cluster import nodes
from samtune.cluster.size import TrialSize
from samtune.cluster.start import Cluster
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.sweep import run_stages, workers
from samtune.sweep.driver import Driver

SETTINGS = [
    *("budget.kind=epochs", "budget.per_trial=3", "budget.trials=2", "search.method=random"),
    *("asha.grace=3", "resources.parallel=2"),
]


class Tune:
    """Ray Tune for two trials: ends when trial 1 reports once, or at once with another error.

    The first trial is greedy: its worker is killed before it reports.
    """

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    def run(self, attempts: Driver, on: Cluster, name: str) -> None:
        self.calls += 1
        while (config := attempts.propose(str(self.calls))) is not None:
            tune_id, self.calls = str(self.calls), self.calls + 1
            greedy = config["trial"]["checkpoint_dir"].endswith("1")
            attempts.reported(tune_id, {"worker": "greedy" if greedy else "fair", "node": ""})
            if not greedy:
                epoch = (config["last_epoch"] or 0) + 1
                report = {"epoch": epoch, "used": epoch, "metrics": {"val_acc": 0.5}, "facts": {}}
                report |= {"checkpoint": None, "checkpoint_sha256": None}
                attempts.reported(tune_id, {"report": json.dumps(report)})
        if not attempts.is_over:
            raise RuntimeError("Caught unexpected exception: 1 worker") from self.error


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tune:
    @contextmanager
    def cluster(*_: Any, **__: Any) -> Iterator[Cluster]:
        yield Cluster(2, TrialSize(cpus=1, gpus=0, workers=1), tmp_path)

    tune = Tune(OutOfMemoryError("the node is running low on memory"))
    monkeypatch.setattr(stages, "cluster", cluster)
    monkeypatch.setattr(run_stages.tune, "run", tune.run)
    monkeypatch.setattr(workers, "killed_for_memory", lambda worker: worker == "greedy")
    return tune


def test_trials_go_on_after_ray_has_killed_the_workers_of_some(
    killed: Tune, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = samtune.run("sgd", set=SETTINGS, runs=runs, name="low", confirm=False)
    assert run.exit_code == 3
    assert capsys.readouterr().err.count("low on memory, so Ray ended") == 2
    with Record.open(runs, "low", read_only=True) as record:
        greedy, fair = record.trials()
        assert (greedy.state, fair.state) == ("error", "completed")
        assert greedy.reason == f"oom: {nodes.WORDS['oom']}"
        causes = [(each["trial"], each["cause"]) for each in record.attempts()]
        assert causes == [(1, "oom"), (1, "oom"), (2, "stopped"), (2, "stopped"), (2, "completed")]


def test_the_run_ends_in_a_sentence_where_no_trial_was_killed(
    killed: Tune, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "killed_for_memory", lambda worker: False)
    with pytest.raises(RunError, match="`samtune resume low` continues") as caught:
        samtune.run("sgd", set=SETTINGS, runs=runs, name="low", confirm=False)
    assert caught.value.exit_code == 5
    killed.error = ValueError("a fault of Tune's")
    with pytest.raises(RuntimeError, match="Caught unexpected exception"):
        samtune.load(runs / "low").resume()


@pytest.mark.parametrize(
    ("error", "of_memory"),
    [(OutOfMemoryError("low"), True), (ActorDiedError(), False), (None, False)],
)
def test_a_worker_is_asked_what_it_died_of(
    error: Exception | None, of_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes.ray, "get", mock.Mock(side_effect=error))
    worker = SimpleNamespace(__ray_ready__=mock.Mock())
    assert nodes.killed_for_memory(worker) == of_memory
