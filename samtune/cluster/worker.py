"""The function that a Ray worker runs for each trial."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune

from samtune.cluster import gpu_memory, sharing
from samtune.cluster.clean import clean, enter
from samtune.cluster.output import logged
from samtune.cluster.ranks import Broadcast, RankFailure, ranks
from samtune.record.copies import Uploads
from samtune.record.folder import alone_in
from samtune.record.outcome import failure
from samtune.record.provenance import hostname_hash
from samtune.space.search_space import resolve
from samtune.trial import TrialConfig, running


def run_trial(config: Mapping[str, Any]) -> None:
    """Find the trainable of one trial by name, call it, and send its reports to the driver."""
    trial = TrialConfig.from_dict(config["trial"])
    driver = Driver()
    with logged(Path(config["log"])):
        problem = _problem(trial, config, driver)
    if driver.has_stopped:
        raise SystemExit(0)
    if problem is not None:
        # A worker that is out of memory, or whose CUDA context may be broken, is not used again.
        raises = problem["cause"] == "oom" or trial.gpus > 0
        tune.report(problem | {"raises": raises})
        if raises:
            raise RuntimeError(problem["error"])


def _problem(
    trial: TrialConfig, config: Mapping[str, Any], driver: Driver
) -> dict[str, Any] | None:
    """Train, and return the failure as `samtune.record.outcome.failure` does."""
    try:
        runtime = ray.get_runtime_context()
        # With the handle, the driver can end a worker that stalls.
        driver.send({"worker": runtime.current_actor, "node": runtime.get_node_id()[:16]})
        _train(trial, config, driver)
    # A trainable may raise anything, and Ray would take SystemExit for its own.
    except BaseException as error:
        problem = failure(error)
        if problem is not None and not driver.has_stopped:
            print(problem["traceback"], file=sys.stderr)
        if problem is not None and isinstance(error, RankFailure):
            problem |= {"cause": error.cause, "again": error.again}
        return problem
    return None


class Driver:
    """The driver as its worker sees it.

    Attributes:
        has_stopped: Whether the driver has stopped the trial. Ray says so only once, in the thread
            that has reported. Every later message therefore stops its own thread here.
    """

    def __init__(self) -> None:
        self.has_stopped = False

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message and wait for the answer. Raises SystemExit if the trial is stopped."""
        if not self.has_stopped:
            try:
                tune.report(dict(message))
                return
            except SystemExit:
                self.has_stopped = True
        raise SystemExit(0)

    def warn(self, text: str | None) -> None:
        """Put a warning on the record. None means that there is no warning."""
        if text is not None:
            self.send({"warning": text})


def _train(trial: TrialConfig, config: Mapping[str, Any], driver: Driver) -> None:
    # The user's code may use CUDA, so none of it runs before this.
    driver.warn(sharing.join() if config["mps"] else None)
    enter(config)
    # Imported before the state is kept: a module's import happens once for all trials of a worker.
    trainable = resolve(trial.trainable)
    driver.warn(gpu_memory.warning(trial, config["gpu_memory_gb"]))
    with alone_in(trial.checkpoint_dir):
        uploads = _uploads(trial, config)
        if uploads is not None and config["last_epoch"] is not None:
            driver.warn(uploads.fetch(config["last_epoch"]))
        with (
            clean(trial.seeds),
            ranks(config, trial) as broadcast,
            running(trial, partial(_report, driver, broadcast, uploads)),
        ):
            trainable(trial)


def _report(
    driver: Driver, broadcast: Broadcast, uploads: Uploads | None, report: dict[str, Any]
) -> None:
    """Copy the checkpoint, send the report, and pass the driver's answer to the other ranks."""
    node = ray.get_runtime_context().get_node_id()
    report["facts"] |= {"hostname_hash": hostname_hash(), "node": node[:16]}
    try:
        if uploads is not None:
            driver.warn(uploads.put(report["checkpoint"]))
        driver.send({"report": json.dumps(report)})
    except SystemExit:
        broadcast(False)
        raise
    broadcast(True)


def _uploads(trial: TrialConfig, config: Mapping[str, Any]) -> Uploads | None:
    if config["storage"] is None or trial.checkpoint_dir is None:
        return None
    return Uploads(config["storage"], config["run"], trial.checkpoint_dir)
