"""Who else hears of a sweep: TensorBoard, W&B, MLflow, and a function of the user's own.

`Observers` is told by the driver what it has just committed. Loggers are Ray Tune's callbacks,
fed with the knobs and metrics of the record: what Tune itself sees of a samtune trial is one JSON
string. Nobody here can end a sweep: an observer that fails is on record, and told of once.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.record.rows import TrialRow

if TYPE_CHECKING:
    from samtune.record.rows import Verdict

LOGGERS = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
"""What `--log` takes, and the package that each needs."""


class Observer(Protocol):
    """`space` is the space's name, `report` what the trainable reported."""

    name: str

    def started(self, space: str, trial: TrialRow, attempt: int) -> None: ...

    def reported(
        self, space: str, trial: TrialRow, attempt: int, report: Mapping[str, Any], decision: str
    ) -> None: ...

    def ended(self, space: str, trial: TrialRow, state: str) -> None: ...

    def close(self) -> None: ...


class Observers:
    """All observers of a run; the first failure of each becomes an event and a line for people."""

    def __init__(
        self, record: Record, observers: Sequence[Observer], warn: Callable[[str], None]
    ) -> None:
        self._record = record
        self._observers = observers
        self._warn = warn
        self._failed: set[str] = set()
        self._spaces = {study.study: study.name for study in record.studies()}

    def started(self, trial: TrialRow, attempt: int) -> None:
        self._tell(trial, lambda o: o.started(self._spaces[trial.study], trial, attempt))

    def reported(
        self, trial: TrialRow, attempt: int, report: Mapping[str, Any], verdict: Verdict
    ) -> None:
        space, decision = self._spaces[trial.study], verdict.decision
        self._tell(trial, lambda o: o.reported(space, trial, attempt, report, decision))

    def ended(self, trial: TrialRow, state: str) -> None:
        self._tell(trial, lambda o: o.ended(self._spaces[trial.study], trial, state))

    def __enter__(self) -> Observers:
        return self

    def __exit__(self, *_: object) -> None:
        self._tell(None, lambda o: o.close())

    def _tell(self, trial: TrialRow | None, message: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                message(observer)
            except Exception as error:
                why = f"{observer.name}: {type(error).__name__}: {error}"
                if observer.name not in self._failed:
                    self._failed.add(observer.name)
                    self._record.add_event("observer failed", why, trial.trial if trial else None)
                    self._warn(f"{why}; the sweep goes on, and this is not told again")


class Hook:
    """Calls the user's function with a dict a report, in the driver's process."""

    def __init__(self, reference: str, run: str) -> None:
        self.name = f"--hook {reference}"
        self._function = _function(reference)
        self._run = run

    def started(self, space: str, trial: TrialRow, attempt: int) -> None: ...

    def reported(
        self, space: str, trial: TrialRow, attempt: int, report: Mapping[str, Any], decision: str
    ) -> None:
        self._function(
            {
                "run": self._run,
                "space": space,
                "stage": trial.stage,
                "trial": trial.number,
                "attempt": attempt,
                "knobs": dict(trial.config.knobs),
                "epoch": report["epoch"],
                "used": report["used"],
                "metrics": dict(report["metrics"]),
                "decision": decision,
            }
        )

    def ended(self, space: str, trial: TrialRow, state: str) -> None: ...

    def close(self) -> None: ...


class Logger:
    """One of Ray Tune's logger callbacks, given trials and results as it reads them."""

    def __init__(self, name: str, callback: Any, folder: Path) -> None:
        self.name = f"--log {name}"
        self._callback = callback
        self._folder = folder
        self._trials: dict[int, _Trial] = {}
        self._reports = 0
        callback.setup()

    def started(self, space: str, trial: TrialRow, attempt: int) -> None:
        if trial.trial in self._trials:
            self.ended(space, trial, "error")
        self._trials[trial.trial] = shown = _Trial(space, trial, self._folder)
        self._callback.log_trial_start(shown)

    def reported(
        self, space: str, trial: TrialRow, attempt: int, report: Mapping[str, Any], decision: str
    ) -> None:
        self._reports += 1
        result = {
            **report["metrics"],
            **{"used": report["used"], "attempt": attempt, "training_iteration": report["epoch"]},
        }
        self._callback.log_trial_result(self._reports, self._trials[trial.trial], result)

    def ended(self, space: str, trial: TrialRow, state: str) -> None:
        self._callback.log_trial_end(self._trials.pop(trial.trial), failed=state == "error")

    def close(self) -> None:
        self._callback.on_experiment_end([])


class _Trial:
    """What Ray's callbacks read of a `ray.tune.experiment.Trial`."""

    def __init__(self, space: str, trial: TrialRow, folder: Path) -> None:
        kind = "repeat-" if trial.stage == "confirm" else ""
        self.trial_id = trial.key
        self.name = f"{space}-{kind}{trial.number:05d}"
        self.space = space
        self.config = {**trial.config.task, **trial.config.knobs}
        self.evaluated_params = dict(trial.config.knobs)
        self.local_path = str(folder / self.name)

    def __str__(self) -> str:
        return self.name

    def init_local_path(self) -> None:
        os.makedirs(self.local_path, exist_ok=True)


def check(names: Sequence[str], hook: str | None) -> None:
    """Raises RunError (exit code 2) unless every logger's package and the hook are there."""
    for name in names:
        package = LOGGERS[name]
        if importlib.util.find_spec(package) is None:
            raise RunError(
                f"--log {name} needs the package {package}: pip install 'samtune[{name}]'",
                exit_code=2,
            )
    if hook is not None:
        _function(hook)


def observers(
    record: Record, names: Sequence[str], hook: str | None, warn: Callable[[str], None]
) -> Observers:
    """The observers that the options name; they write into folders of the run's own.

    Raises RunError: exit code 2 for a hook that is not there, 5 for a logger that does not start.
    """
    found: list[Observer] = [Hook(hook, record.name)] if hook is not None else []
    for name in dict.fromkeys(names):
        folder = record.folder / name
        folder.mkdir(exist_ok=True)
        try:
            found.append(Logger(name, _CALLBACKS[name](folder), folder))
        except Exception as error:
            why = " ".join(str(error).split())[:300]
            raise RunError(f"--log {name} did not start: {why}", exit_code=5) from error
    return Observers(record, found, warn)


def _tensorboard(folder: Path) -> Any:
    from ray.tune.logger import TBXLoggerCallback

    return TBXLoggerCallback()  # type: ignore[no-untyped-call]


def _mlflow(folder: Path) -> Any:
    # MLflow 3 wants to be told that a folder, and not a database, is meant.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return MLflowLoggerCallback(tracking_uri=folder.as_uri(), experiment_name=folder.parent.name)


def _wandb(folder: Path) -> Any:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb
    from ray.tune.logger import LoggerCallback

    class WandbCallback(LoggerCallback):
        """Ray's own starts two processes a trial; W&B can hold many runs in one by now."""

        def setup(self, *arguments: Any, **options: Any) -> None:
            self._runs: dict[_Trial, Any] = {}

        def log_trial_start(self, trial: Any) -> None:
            self._runs[trial] = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "samtune"),
                group=folder.parent.name,
                job_type=trial.space,
                name=trial.name,
                config=trial.config,
                # It makes the folder `wandb` in there itself.
                dir=folder.parent,
                # Nothing leaves the machine unless its owner says so.
                mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
                reinit="create_new",
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    disable_code=True,
                    disable_git=True,
                    x_disable_meta=True,
                    x_disable_stats=True,
                    x_save_requirements=False,
                ),
            )

        def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
            metrics = {k: v for k, v in result.items() if k != "training_iteration"}
            self._runs[trial].log(metrics, step=result["training_iteration"])

        def log_trial_end(self, trial: Any, failed: bool = False) -> None:
            self._runs.pop(trial).finish(exit_code=int(failed))

        def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
            for run in self._runs.values():
                run.finish(exit_code=1)

    return WandbCallback()


_CALLBACKS = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}


def _function(reference: str) -> Callable[[dict[str, Any]], object]:
    module_name, _, name = reference.partition(":")
    if not module_name or not name.isidentifier():
        raise RunError(f"--hook {reference!r}: write my_package.my_module:function", exit_code=2)
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise RunError(
            f"--hook {reference}: module {module_name} cannot be imported from {os.getcwd()} or "
            f"Python's path: {type(error).__name__}: {error}",
            exit_code=2,
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        from samtune.messages import nearest

        known = [word for word, value in vars(module).items() if callable(value)]
        raise RunError(
            f"--hook: module {module_name} has no function {name!r}; {nearest(name, known)}",
            exit_code=2,
        )
    return function  # type: ignore[no-any-return]
