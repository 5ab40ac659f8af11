"""Run the same sweep by samtune's peers, each as its documentation shows it.

    python -m benchmarks.sweep_peers one-process|optuna|ray|syne-tune SWEEP.json

SWEEP.json has the configurations, as `benchmarks.sweep` writes it. All peers call `train`, and so
does samtune. `train` trains, and writes its CPU time and its result to the file that the variable
`SAMTUNE_BENCHMARK_LOG` names.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from samtune import trial
from samtune.trial import Budget, Seeds, TrialConfig, running


class Timed:
    """The shipped SAM trainable, which also logs the CPU time and the result of each trial."""

    variant = "sam"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        from trainables.vision import sam

        return getattr(sam, name)

    def __call__(self, config: TrialConfig) -> None:
        from trainables.vision import sam

        outer, last = trial._running.get(), {"used": 0.0, "val_acc": 0.0}
        assert outer is not None

        def keep(report: dict[str, Any]) -> None:
            last.update(used=report["used"], val_acc=report["metrics"]["val_acc"])
            outer.send(report)

        started = time.thread_time()
        try:
            with trial.running(config, keep):
                sam(config)
        finally:
            self._note({"cpu_s": time.thread_time() - started, "knobs": {**config.knobs}, **last})

    def _note(self, what: Mapping[str, Any]) -> None:
        line = json.dumps(what)
        with Path(os.environ["SAMTUNE_BENCHMARK_LOG"]).open("a") as log:
            log.write(line + "\n")


train = Timed()


def trial_config(sweep: Mapping[str, Any], knobs: Mapping[str, float]) -> TrialConfig:
    """Return one trial of the sweep, with the seeds that samtune gives it."""
    return TrialConfig(
        trainable="trainables.vision:sam",
        variant="sam",
        base="sgd",
        knobs=knobs,
        task=sweep["task"],
        budget=Budget("compute", sweep["per_trial"]),
        seeds=Seeds(1, 1, 1),
    )


def train_reporting(
    sweep: Mapping[str, Any], knobs: Mapping[str, float], send: Callable[[float], object]
) -> float:
    """Train one configuration, send each validation accuracy, and return the last."""
    sent = [0.0]

    def keep(report: dict[str, Any]) -> None:
        sent.append(report["metrics"]["val_acc"])
        send(sent[-1])

    with running(trial_config(sweep, knobs), keep):
        train(trial_config(sweep, knobs))
    return sent[-1]


def one_process(sweep: Mapping[str, Any]) -> None:
    """Run a plain loop, which is the least that any system needs."""
    for knobs in sweep["configurations"]:
        train_reporting(sweep, knobs, lambda value: None)


def optuna_sweep(sweep: Mapping[str, Any]) -> None:
    """Run Optuna's own loop in one process, over the given configurations."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for knobs in sweep["configurations"]:
        study.enqueue_trial(knobs)

    def objective(one: optuna.Trial) -> float:
        knobs = {
            name: one.suggest_categorical(name, values) for name, values in sweep["grid"].items()
        }
        steps = iter(range(1, 10_000))
        return train_reporting(
            sweep, knobs | sweep["fixed"], lambda value: one.report(value, next(steps))
        )

    study.optimize(objective, n_trials=len(sweep["configurations"]))


def ray_sweep(sweep: Mapping[str, Any]) -> None:
    """Run Ray Tune with its defaults: a grid search of a function, one CPU per trial."""
    import ray
    from ray import tune

    def trainable(config: dict[str, float]) -> None:
        train_reporting(sweep, config, lambda value: tune.report({"val_acc": value}))

    ray.init(address="local", num_cpus=2)
    space = {name: tune.grid_search(values) for name, values in sweep["grid"].items()}
    tune.Tuner(
        trainable,
        param_space=space | sweep["fixed"],
        run_config=tune.RunConfig(storage_path=os.getcwd(), name="ray"),
    ).fit()


def syne_tune_sweep(sweep: Mapping[str, Any]) -> None:
    """Run Syne Tune's local backend: two workers, one process per trial."""
    from syne_tune import Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import choice
    from syne_tune.optimizer.baselines import RandomSearch

    class Listed(RandomSearch):
        """End with the list, because a `StoppingCriterion` of n trials starts one or two more."""

        left = len(sweep["configurations"])

        def suggest(self) -> Any:
            self.left -= 1
            return super().suggest() if self.left >= 0 else None

    space = {name: choice(values) for name, values in sweep["grid"].items()} | sweep["fixed"]
    tuner = Tuner(
        # To assign GPUs, it would count them with a file `std.out` in the current folder.
        trial_backend=LocalBackend(entry_point=__file__, rotate_gpus=False),
        scheduler=Listed(
            space,
            metrics=["val_acc"],
            do_minimize=False,
            random_seed=1,
            points_to_evaluate=sweep["configurations"],
        ),
        stop_criterion=lambda status: False,
        n_workers=2,
        wait_trial_completion_when_stopping=True,
        save_tuner=False,
    )
    tuner.run()


def syne_tune_trial() -> None:
    """Train one trial: Syne Tune starts this file for each, with the knobs as arguments."""
    from argparse import ArgumentParser

    from syne_tune import Reporter

    sweep = json.loads(Path(os.environ["SAMTUNE_BENCHMARK_SWEEP"]).read_text())
    parser = ArgumentParser()
    for name in {**sweep["grid"], **sweep["fixed"]}:
        parser.add_argument(f"--{name}", type=float)
    arguments, _ = parser.parse_known_args()
    report = Reporter()
    train_reporting(sweep, vars(arguments), lambda value: report(val_acc=value))


PEERS: dict[str, Callable[[Mapping[str, Any]], None]] = {
    "one-process": one_process,
    "optuna": optuna_sweep,
    "ray": ray_sweep,
    "syne-tune": syne_tune_sweep,
}


if __name__ == "__main__":
    if sys.argv[1] in PEERS:
        PEERS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
    else:
        syne_tune_trial()
