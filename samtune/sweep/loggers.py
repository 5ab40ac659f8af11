"""Loggers: a sweep in TensorBoard, W&B and MLflow, each by its own client.

Each trial is a run of the tracker with the name `asam-00003` or `asam-repeat-00001`. Its
parameters are the trial's task and knobs. Its metrics are those of the reports, `used` and
`attempt`, with the epoch as their step. All files are in the run's folder; nothing leaves the
machine.
"""

from __future__ import annotations

import itertools
import math
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from samtune.record.rows import TrialRow

# What MLflow takes in one call, and in one parameter.
_MLFLOW_PARAMS, _MLFLOW_LENGTH = 100, 6000


def _name(space: str, trial: TrialRow) -> str:
    repeat = {"search": "", "select": "select-", "confirm": "repeat-"}[trial.stage]
    return f"{space}-{repeat}{trial.number:05d}"


def _parameters(trial: TrialRow) -> dict[str, Any]:
    return {**trial.config.task, **trial.config.knobs}


def _metrics(report: Mapping[str, Any], attempt: int) -> dict[str, float]:
    found = {**report["metrics"], "used": report["used"], "attempt": attempt}
    return {name: float(value) for name, value in found.items()}


class TensorBoard:
    """Event files, one folder per trial: `tensorboard --logdir runs/NAME/tensorboard`."""

    name = "--log tensorboard"
    package: ClassVar[str] = "tensorboardX"

    def __init__(self, folder: Path) -> None:
        """Write into a folder."""
        self._folder = folder
        self._writers: dict[int, Any] = {}

    def started(self, space: str, trial: TrialRow, attempt: int) -> None:
        """Open an event file in the trial's folder, and write the knobs into it."""
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        self._close(trial.trial)
        # Otherwise two files of the same second have one name.
        suffix = f".{secrets.token_hex(4)}"
        place = str(self._folder / _name(space, trial))
        writer = self._writers[trial.trial] = SummaryWriter(place, filename_suffix=suffix)
        for summary in hparams(dict(trial.config.knobs), {trial.config.metric: math.nan}):
            writer.file_writer.add_summary(summary)

    def reported(
        self, space: str, trial: TrialRow, attempt: int, report: Mapping[str, Any], decision: str
    ) -> None:
        """Write the report's metrics."""
        writer = self._writers[trial.trial]
        for name, value in _metrics(report, attempt).items():
            writer.add_scalar(name, value, report["epoch"])
        writer.flush()

    def ended(self, space: str, trial: TrialRow, state: str) -> None:
        """Close the event file."""
        self._close(trial.trial)

    def close(self) -> None:
        """Close all event files."""
        for trial in list(self._writers):
            self._close(trial)

    def _close(self, trial: int) -> None:
        if writer := self._writers.pop(trial, None):
            writer.close()


class Wandb:
    """W&B runs, offline unless WANDB_MODE says otherwise: `wandb sync runs/NAME/wandb/*`."""

    name = "--log wandb"
    package: ClassVar[str] = "wandb"

    def __init__(self, folder: Path) -> None:
        """Write into a folder called `wandb`."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._wandb = wandb
        # It makes the folder `wandb` there by itself.
        self._folder = folder.parent
        self._runs: dict[int, Any] = {}

    def started(self, space: str, trial: TrialRow, attempt: int) -> None:
        """Begin a run for the attempt."""
        self._finish(trial.trial, failed=True)
        self._runs[trial.trial] = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "samtune"),
            group=self._folder.name,
            job_type=space,
            name=_name(space, trial),
            config=_parameters(trial),
            dir=self._folder,
            # W&B itself refuses a word that is no mode.
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            # Several runs in one process, where W&B would end the one before.
            reinit="create_new",
            settings=self._wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )

    def reported(
        self, space: str, trial: TrialRow, attempt: int, report: Mapping[str, Any], decision: str
    ) -> None:
        """Log the report's metrics."""
        self._runs[trial.trial].log(_metrics(report, attempt), step=report["epoch"])

    def ended(self, space: str, trial: TrialRow, state: str) -> None:
        """Finish the run."""
        self._finish(trial.trial, failed=state == "error")

    def close(self) -> None:
        """Finish the runs of trials that were cut off."""
        for trial in list(self._runs):
            self._finish(trial, failed=True)

    def _finish(self, trial: int, *, failed: bool) -> None:
        if run := self._runs.pop(trial, None):
            run.finish(exit_code=int(failed))


class MLflow:
    """One MLflow run per trial: `mlflow ui --backend-store-uri runs/NAME/mlflow`."""

    name = "--log mlflow"
    package: ClassVar[str] = "mlflow"

    def __init__(self, folder: Path) -> None:
        """Write into a folder, as an experiment with the name of the run."""
        # MLflow 3 accepts a folder instead of a database only on request.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=folder.as_uri())
        name = folder.parent.name
        known = self._client.get_experiment_by_name(name)
        self._experiment = known.experiment_id if known else self._client.create_experiment(name)
        self._runs: dict[int, str] = {}

    def started(self, space: str, trial: TrialRow, attempt: int) -> None:
        """Start or continue the trial's run."""
        found = self._client.search_runs(
            [self._experiment], f"tags.`samtune.trial` = '{trial.key}'", max_results=1
        )
        if found:
            self._runs[trial.trial] = found[0].info.run_id
            self._client.update_run(found[0].info.run_id, status="RUNNING")
            return
        run = self._client.create_run(
            self._experiment, run_name=_name(space, trial), tags={"samtune.trial": trial.key}
        )
        self._runs[trial.trial] = run.info.run_id
        for params in _batches(_parameters(trial)):
            self._client.log_batch(run.info.run_id, params=params)

    def reported(
        self, space: str, trial: TrialRow, attempt: int, report: Mapping[str, Any], decision: str
    ) -> None:
        """Log the report's metrics."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, report["epoch"])
            for name, value in _metrics(report, attempt).items()
        ]
        self._client.log_batch(self._runs[trial.trial], metrics=metrics)

    def ended(self, space: str, trial: TrialRow, state: str) -> None:
        """End the run."""
        status = {"error": "FAILED", "cancelled": "KILLED"}.get(state, "FINISHED")
        self._client.set_terminated(self._runs.pop(trial.trial), status)

    def close(self) -> None:
        """End the runs of trials that were cut off."""
        for run in self._runs.values():
            self._client.set_terminated(run, "KILLED")
        self._runs.clear()


def _batches(parameters: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Yield MLflow's parameters in batches of the size that one call accepts."""
    from mlflow.entities import Param

    items = iter(parameters.items())
    while batch := list(itertools.islice(items, _MLFLOW_PARAMS)):
        yield [Param(name, str(value)[:_MLFLOW_LENGTH]) for name, value in batch]


LOGGERS: dict[str, type[TensorBoard] | type[Wandb] | type[MLflow]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
}
"""The loggers by the word that `--log` takes."""
