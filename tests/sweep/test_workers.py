"""One pair of workers serves all stages of a command, and waits where trials have to."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_sweep import record_of

from samtune.cluster.start import Cluster
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace
from samtune.sweep.confirm_stage import ConfirmStage
from samtune.sweep.driver import run_stages
from samtune.sweep.live import QuietView
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.stages import StagePlan
from samtune.sweep.stop import Stop

LAB = """
import os
import samtune

def train(config):
    facts = {"pid": os.getpid()}
    for epoch in range(1, 5):
        # Its whole budget, and more: the driver ends it.
        samtune.report(epoch=epoch, val_acc=config.knobs["lr"] * epoch / 10, facts=facts)

def returns(config):
    if config.knobs["lr"] > 0.15:
        samtune.report(epoch=1, val_acc=config.knobs["lr"], facts={"pid": os.getpid()})
"""
SPACE = """
samtune: 1
trainable: {trainable}
knobs: {{lr: {{grid: [0.1, 0.2, 0.3, 0.4, 0.5]}}}}
budget: {{kind: epochs, per_trial: 3}}
search: {{method: grid}}
asha: {{mode: {mode}, grace: 1, factor: 2}}
confirm: {{top: 1, seeds: 3}}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    name = f"waiting_{tmp_path.name}"
    Path(f"{name}.py").write_text(LAB)
    importlib.invalidate_caches()
    path = list(sys.path)
    yield name
    sys.path[:] = path
    sys.modules.pop(name, None)


def swept(runs: Path, trainable: str, mode: str, on: Cluster) -> tuple[Record, list[str]]:
    """Search and confirm by one call; return the record, and the stages as they were made."""
    Path("lab.yaml").write_text(SPACE.format(trainable=trainable, mode=mode))
    spaces = [SearchSpace.load("lab.yaml")]
    record = record_of(runs, spaces)
    made: list[str] = []

    def stages() -> Iterator[StagePlan]:
        made.append("search")
        yield SearchStage(record, spaces)
        made.append(f"confirm after {record.events()[-1]['kind']}")
        yield ConfirmStage(record, spaces, None, None)

    run_stages(stages(), record, on, QuietView(), Stop())
    return record, made


@pytest.mark.parametrize("mode", ["stop", "promote", "halving"])
def test_two_workers_serve_both_stages(
    two_slots: Cluster, runs: Path, here: str, mode: str
) -> None:
    record, made = swept(runs, f"{here}:train", mode, two_slots)
    with record:
        assert made == ["search", "confirm after search ended"]
        kinds = [event["kind"] for event in record.events()]
        assert kinds == ["search started", "search ended", "confirm started", "confirm ended"]
        pids = {(trial.stage, trial.facts["pid"]) for trial in record.trials()}
        workers = {pid for _, pid in pids}
        assert len(workers) == 2, "no worker was started for a stage, a rung or a retry"
        assert {pid for stage, pid in pids if stage == "confirm"} == workers
        assert not record.running()
        completed = list(record.trials(stage="confirm", states={"completed"}))
        assert len(completed) == 3


def test_a_trainable_that_returns_by_itself_is_served_as_well(
    two_slots: Cluster, runs: Path, here: str
) -> None:
    record, _ = swept(runs, f"{here}:returns", "stop", two_slots)
    with record:
        states = {t.config.knobs["lr"]: t.state for t in record.trials(stage="search")}
        assert states[0.1] == "error" and states[0.5] == "completed"
        assert len(list(record.trials(stage="confirm", states={"completed"}))) == 3
