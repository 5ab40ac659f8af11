"""Measure the cost of a trial of two processes with samtune's group and with Ray's TorchTrainer.

    python -m benchmarks.groups --json benchmarks/results/groups.json

Both run the same four trials of Ray Tune, one at a time in one reused actor. The two ranks of each
trial join over gloo, reduce a tensor ten times and leave. Wall time is that of `Tuner.fit`. CPU
time is that of all processes from its start to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from ray import tune

from benchmarks.environment import environment
from benchmarks.process_tree import look
from samtune.cluster.ranks import ranks
from samtune.cluster.start import cluster
from samtune.space.schema import ResourceSettings
from samtune.trial import Budget, Seeds, TrialConfig

_TRIALS = 4


def train(config: TrialConfig | None = None) -> None:
    """Do the work of one rank. The other rank finds this trainable by name."""
    if config is not None:
        dist.init_process_group("gloo")
    ones = torch.ones(1000)
    for _ in range(10):
        dist.all_reduce(ones)
        ones /= 2
    if not torch.equal(ones, torch.ones(1000)):
        raise RuntimeError("the group is not one of two ranks")
    if config is not None:
        dist.destroy_process_group()


def by_group(config: Mapping[str, Any]) -> None:
    trial = TrialConfig(
        "benchmarks.groups:train",
        *("sgd", "sgd", {}, {}),
        Budget("epochs", 1),
        Seeds(1, 1, 1),
        workers=2,
    )
    with ranks({"trial": trial.to_dict(), "path": config["path"]}, trial):
        train(trial)
    tune.report({"done_by": 1})


def by_ray_train(config: Mapping[str, Any]) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with tempfile.TemporaryDirectory() as folder:
        TorchTrainer(
            lambda: train(),
            scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(storage_path=folder),
        ).fit()
    tune.report({"done_by": 1})


def measure(
    trainable: Callable[[Mapping[str, Any]], None], bundles: list[dict[str, float]]
) -> dict[str, Any]:
    """Return the figures of one contender."""
    with cluster([ResourceSettings(workers=3, parallel=1)]) as on:
        started = time.monotonic()
        tuner = tune.Tuner(
            tune.with_resources(trainable, tune.PlacementGroupFactory(bundles)),
            param_space={"trial": tune.grid_search(list(range(_TRIALS))), "path": [os.getcwd()]},
            tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=str(on.scratch / "tune"), verbose=0),
        )
        with _Cpu() as cpu:
            results = tuner.fit()
        wall = time.monotonic() - started
    if results.errors:
        raise results.errors[0]
    return {
        "contender": trainable.__name__,
        "trials": _TRIALS,
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu.seconds, 1),
    }


class _Cpu:
    """CPU seconds of this process and all below it, sampled because Ray's workers vanish."""

    def __init__(self) -> None:
        self._used: dict[psutil.Process, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> _Cpu:
        self._before = self._all()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.seconds = self._all() - self._before

    def _sample(self) -> None:
        while not self._over.wait(0.2):
            look(self._used)

    def _all(self) -> float:
        look(self._used)
        return time.process_time() + sum(self._used.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path.cwd()))
    about = environment("torch", "ray")
    # Ray Train places its workers beside the trial, so the cluster has one more CPU for it.
    bundles = {by_group: [{"CPU": 1.0}] * 2, by_ray_train: [{"CPU": 0.001}]}
    rows = []
    for trainable, bundle in bundles.items():
        rows.append(measure(trainable, bundle))
        print(rows[-1], flush=True)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"environment": about, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
