"""All stages of a command use the same two workers, which wait when trials have to wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab_sweeps import record_of
from ray.tune.experiment import Trial

from samtune.cluster.start import Cluster
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace
from samtune.sweep import tune
from samtune.sweep.confirm_stage import ConfirmStage
from samtune.sweep.live import QuietView
from samtune.sweep.run_stages import run_stages
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.stages import StagePlan
from samtune.sweep.stop import Stop

pytestmark = pytest.mark.slow

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
def lab(lab_of: Callable[[str], str]) -> str:
    return lab_of(LAB)


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
        yield ConfirmStage(record, spaces, None, [3])

    run_stages(stages(), record, on, QuietView(), Stop())
    return record, made


@pytest.mark.parametrize("mode", ["stop", "promote", "halving"])
def test_two_workers_serve_both_stages(
    two_slots: Cluster, runs: Path, lab: str, mode: str
) -> None:
    record, made = swept(runs, f"{lab}:train", mode, two_slots)
    with record:
        assert made == ["search", "confirm after search ended"]
        # These trials pause without checkpoints, which is a warning.
        kinds = [e["kind"] for e in record.events() if e["kind"] != "warning"]
        assert kinds == ["search started", "search ended", "confirm started", "confirm ended"]
        pids = {(trial.stage, trial.facts["pid"]) for trial in record.trials()}
        workers = {pid for _, pid in pids}
        assert len(workers) == 2, "no worker was started for a stage, a rung or a retry"
        assert {pid for stage, pid in pids if stage == "confirm"} == workers
        assert not record.running()
        completed = list(record.trials(stage="confirm", states={"completed"}))
        assert len(completed) == 3


def test_a_trainable_that_returns_by_itself_is_served_as_well(
    two_slots: Cluster, runs: Path, lab: str
) -> None:
    record, _ = swept(runs, f"{lab}:returns", "stop", two_slots)
    with record:
        states = {t.config.knobs["lr"]: t.state for t in record.trials(stage="search")}
        assert states[0.1] == "error" and states[0.5] == "completed"
        assert len(list(record.trials(stage="confirm", states={"completed"}))) == 3


class Controller:
    """The part of Tune that the scheduler calls."""

    def __init__(self) -> None:
        self.stopped: list[Trial] = []

    def stop_trial(self, trial: Trial) -> None:
        trial.set_status(Trial.TERMINATED)
        self.stopped.append(trial)


class Ended:
    """A sweep in which every report ends its attempt."""

    def reported(self, tune_id: str, result: dict[str, object]) -> bool:
        return False


def named(name: str, folder: str) -> Trial:
    config = {"trial": {"checkpoint_dir": folder}}
    return Trial("stub", stub=True, trial_id=name, config=config)


def test_a_new_attempt_takes_the_worker_that_ran_its_trial_before() -> None:
    controller, scheduler = Controller(), tune._Scheduler(Ended())
    first, second, third = named("a", "1"), named("b", "2"), named("c", "2")
    for trial in (first, second):
        scheduler.on_trial_add(controller, trial)
    for trial in (first, second):
        trial.set_status(Trial.RUNNING)
        assert scheduler.on_trial_result(controller, trial, {}) == "NOOP"
    scheduler.on_trial_add(controller, third)
    assert controller.stopped == [second] and scheduler.has_lent
    chosen = [scheduler.choose_trial_to_run(controller) for _ in range(3)]
    assert chosen == [third] * 3, "asked again, the answer is the same"


def test_a_trial_that_waits_for_long_takes_a_waiting_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    controller, scheduler = Controller(), tune._Scheduler(Ended())
    runs, waits, newer = named("a", "1"), named("b", "2"), named("c", "3")
    for trial in (runs, waits, newer):
        scheduler.on_trial_add(controller, trial)
    runs.set_status(Trial.RUNNING)
    scheduler.on_trial_result(controller, runs, {})
    assert scheduler.choose_trial_to_run(controller) is newer
    scheduler.relieve()
    assert not controller.stopped, "its own worker may be about to come"
    monkeypatch.setattr(tune, "_LONG_WAIT_S", 0.0)
    scheduler.relieve()
    assert controller.stopped == [runs]
    assert scheduler.choose_trial_to_run(controller) is waits
