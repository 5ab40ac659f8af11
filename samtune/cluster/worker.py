"""What a Ray worker runs for one trial."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import ray
from ray import tune

from samtune.cluster import gpu_memory
from samtune.cluster.ranks import RankFailure, Tell, ranks
from samtune.record.folder import alone_in
from samtune.record.outcome import failure
from samtune.record.provenance import hostname_hash
from samtune.record.storage import Uploads
from samtune.space.search_space import resolve
from samtune.trial import TrialConfig, running


def run_trial(config: Mapping[str, Any]) -> None:
    """What a Ray worker runs: resolves the trainable by name and reports for it."""
    trial = TrialConfig.from_dict(config["trial"])
    node = ray.get_runtime_context().get_node_id()

    def send(
        report: dict[str, Any],
        tell: Tell = lambda go_on: None,
        uploads: Uploads | None = None,
    ) -> None:
        report["facts"] |= {"hostname_hash": hostname_hash(), "node": node[:16]}
        try:
            if uploads is not None:
                warn(uploads.put(report["checkpoint"]))
            tune.report({"report": json.dumps(report)})
        except SystemExit:
            tell(False)
            raise
        tell(True)

    sys.path.extend(path for path in config["path"] if path not in sys.path)
    went_wrong = None
    try:
        _train(trial, config, send)
    except Exception as error:
        went_wrong = failure(error)
        if isinstance(error, RankFailure):
            went_wrong |= {"cause": error.cause, "again": error.again}
    if went_wrong is not None:
        # A worker that is out of memory, or whose CUDA context may be broken, is not used again.
        raises = went_wrong["cause"] == "oom" or trial.gpus > 0
        tune.report(went_wrong | {"raises": raises})
        if raises:
            raise RuntimeError(went_wrong["error"])


def _train(trial: TrialConfig, config: Mapping[str, Any], send: Callable[..., None]) -> None:
    """In this worker itself."""
    trainable = resolve(trial.trainable)
    warn(gpu_memory.warning(trial, config["gpu_memory_gb"]))
    with alone_in(trial.checkpoint_dir):
        uploads = _uploads(trial, config)
        if uploads is not None and config["last_epoch"] is not None:
            warn(uploads.fetch(config["last_epoch"]))
        with (
            ranks(config, trial) as tell,
            running(trial, partial(send, tell=tell, uploads=uploads)),
        ):
            trainable(trial)


def warn(text: str | None) -> None:
    """Has the driver put a warning on record."""
    if text is not None:
        tune.report({"warning": text})


def _uploads(trial: TrialConfig, config: Mapping[str, Any]) -> Uploads | None:
    if config["storage"] is None or trial.checkpoint_dir is None:
        return None
    return Uploads(config["storage"], config["run"], trial.checkpoint_dir)
