"""The contract of a trainable: the configuration of its trial, and `report`."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from samtune import values
from samtune.values import ReportError as ReportError
from samtune.values import Value as Value

BudgetKind = Literal["compute", "epochs", "seconds"]


@dataclass(frozen=True)
class Budget:
    """The most that one trial may use, in SGD-epoch equivalents (see), epochs or seconds."""

    kind: BudgetKind
    per_trial: float


@dataclass(frozen=True)
class Seeds:
    """The seeds of a trial. Trials with equal seeds have the same split, weights and batches."""

    init: int
    order: int
    split: int


@dataclass(frozen=True)
class TrialConfig:
    """The full configuration of one trial, in plain values, so that any worker can take it.

    Attributes:
        trainable: The trainable, as `module:name`.
        variant: The name of the optimizer variant.
        base: The name of the base optimizer.
        knobs: The value of each knob.
        task: The settings of the task.
        budget: The most that the trial may use.
        seeds: The seeds of the trial. `random`, NumPy and torch are seeded from them before the
            trainable is called, equally on each rank.
        metric: The metric that every report must have.
        aims: Further metrics that every report must have: the search improves or limits them.
        checkpoint_dir: The folder for the trial's own checkpoints, None for no checkpoints. A
            trial that finds a checkpoint there continues from it.
        test_permit: The recorded permit to open the test split. Trials of the search have none.
        cpus: CPUs per process.
        gpus: GPUs per process.
        workers: The number of processes that run the trainable. With more than one, each has the
            environment that torchrun sets: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. All
            processes report alike, and only the report of rank 0 counts.
        sharpness: Whether the last report has the sharpness of the model, as `sharp_` metrics.
        used: The part of the budget that earlier attempts at this trial have used, by the record.
    """

    trainable: str
    variant: str
    base: str
    knobs: Mapping[str, Value]
    task: Mapping[str, Value]
    budget: Budget
    seeds: Seeds
    metric: str = "val_acc"
    aims: tuple[str, ...] = ()
    checkpoint_dir: str | None = None
    test_permit: str | None = None
    cpus: float = 1
    gpus: float = 0
    workers: int = 1
    sharpness: bool = False
    used: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return nested dicts of plain values. `from_dict` is the inverse."""
        plain = dataclasses.asdict(self)
        return {**plain, "knobs": dict(self.knobs), "task": dict(self.task)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TrialConfig:
        """Return the configuration that `to_dict` made `plain` from."""
        return cls(
            **{
                **plain,
                "budget": Budget(**plain["budget"]),
                "seeds": Seeds(**plain["seeds"]),
                "aims": tuple(plain.get("aims", ())),
            }
        )


@dataclass
class _Running:
    """A trial that runs in this process, and what it has reported so far."""

    config: TrialConfig
    send: Callable[[dict[str, Any]], None]
    process: int = field(default_factory=os.getpid)
    started: float = field(default_factory=time.monotonic)
    # Threads of an earlier trial may still run, and must not report for this one.
    older_threads: frozenset[threading.Thread] = field(
        default_factory=lambda: frozenset(threading.enumerate())
    )
    lock: threading.RLock = field(default_factory=threading.RLock)
    last_epoch: int = -1
    last_used: float = 0.0
    # Added to `train_s` of a trainable that counts the seconds of this attempt alone.
    earlier_train_s: float | None = None
    warnings: list[str] = field(default_factory=list)


PROGRAM_TRIAL = "SAMTUNE_TRIAL"
"""The environment variable with the trial of a program, as JSON."""

_running: ContextVar[_Running | None] = ContextVar("running trial", default=None)
# The same for threads that the trainable starts: a new thread has an empty context.
_open: list[_Running] = []


@contextmanager
def running(config: TrialConfig, send: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Let `report` pass each checked report to `send` inside the block.

    A sweep sends to Ray Tune. `running(config, reports.append)` runs a trainable without Ray.
    """
    trial = _Running(config, send)
    token = _running.set(trial)
    _open.append(trial)
    try:
        yield
    finally:
        _open.remove(trial)
        _running.reset(token)


def report(
    *,
    epoch: int,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_sha256: str | None = None,
    facts: Mapping[str, Value] | None = None,
    **metrics: Any,
) -> None:
    """Report the end of an epoch, or of the budget, after the checkpoint is on disk.

    Any thread of the trainable may call it. One report per epoch: a trainable that evaluates more
    often counts its evaluations as epochs, and then a budget of kind `epochs` counts them too. A
    report with a non-finite metric of the sweep or `train_loss` ends the trial as diverged. A
    report that has used the whole budget ends the trial as completed.

    Args:
        epoch: The number of the epoch, larger than in the last report of this attempt.
        checkpoint: The path of the checkpoint of this epoch.
        checkpoint_sha256: The SHA-256 of that checkpoint.
        facts: Constants of the trial, such as `n_params` and `device`: numbers, texts, True or
            False. One report with them is enough. A repeat that has opened test may add
            `test_bits`, which says of each test image whether it is classified correctly:
            `base64.b64encode(np.packbits(correct)).decode()`, and `test_split`, a text that is
            equal for repeats with the same test images.
        metrics: Numbers: of Python, or 0-dim tensors and arrays. The metric of the sweep
            (`val_acc` unless the space names another) is always needed, and so are those that
            the space names as aims or constraints. A budget of kind `compute` needs `see` too:
            the SGD-epoch equivalents since the start of the trial. A budget of kind `seconds`
            counts `train_s` where it is reported (training seconds of all attempts, from
            `config.used` on), and otherwise the time since the start.

    Raises:
        ReportError: For a value that cannot be recorded, a missing metric, an epoch or a use of
            the budget that falls, a `test_` name without a permit, and outside a trial.
    """
    trial = _current()
    with trial.lock:
        _send(trial, epoch, checkpoint, checkpoint_sha256, facts, metrics)


def warn(text: str) -> None:
    """Add a warning to the trial's next report. Outside a trial, warn as Python does."""
    trial = _running.get() or (_open[-1] if _open else None)
    if trial is None:
        warnings.warn(text, stacklevel=2)
    else:
        trial.warnings.append(text)


def _current() -> _Running:
    """Return the trial of this thread. Raises ReportError if there is none."""
    trial = _running.get()
    if trial is None and _open:
        trial = _open[-1]
        if threading.current_thread() in trial.older_threads:
            raise ReportError(
                "samtune.report was called from a thread that is older than the trial; "
                "start threads and executors inside the trainable"
            )
    if trial is None and PROGRAM_TRIAL in os.environ:
        config = TrialConfig.from_dict(json.loads(os.environ[PROGRAM_TRIAL]))
        trial = _Running(config, _print, older_threads=frozenset())
        _open.append(trial)
    if trial is None:
        raise ReportError(
            "samtune.report was called outside a trial, or in another process than its "
            "trainable's; run the trainable by `samtune run`, or inside "
            "`samtune.trial.running(config, send)`"
        )
    if trial.process != os.getpid():
        raise ReportError(
            "samtune.report was called in a subprocess of the trainable; return the metrics to "
            "the trainable's own process, and report there"
        )
    return trial


def _print(report: dict[str, Any]) -> None:
    """Print a report of a program as the line of JSON that the sweep reads."""
    words = ("epoch", "checkpoint", "checkpoint_sha256", "facts")
    given = {word: report[word] for word in words if report[word]}
    print(json.dumps(given | report["metrics"]), flush=True)


def _send(
    trial: _Running,
    epoch: Any,
    checkpoint: Any,
    checkpoint_sha256: Any,
    facts: Any,
    metrics: Mapping[str, Any],
) -> None:
    number = values.epoch_number(epoch)
    if number == trial.last_epoch:
        raise ReportError(
            f"epoch {number} was reported twice; report once per epoch, or count evaluations "
            "as epochs"
        )
    if number < trial.last_epoch:
        raise ReportError(f"epoch {number} was reported after epoch {trial.last_epoch}")
    if not isinstance(facts or {}, Mapping):
        raise ReportError(f"facts is a {type(facts).__name__}; report a dict of names and values")
    checked = _checked(trial.config, metrics)
    _refuse_test(trial.config, [*checked, *map(str, facts or {})])
    used = _used(trial, number, checked)
    if not 0 <= used < math.inf or used < trial.last_used:
        raise ReportError(
            f"{used} of the budget is used after {trial.last_used}; "
            "the used budget must be finite and must not fall"
        )
    plain = {
        "epoch": number,
        "used": used,
        "metrics": checked,
        "checkpoint": values.text("checkpoint", checkpoint),
        "checkpoint_sha256": values.text("checkpoint_sha256", checkpoint_sha256),
        "facts": {name: values.fact(name, value) for name, value in (facts or {}).items()},
        "warnings": trial.warnings,
    }
    trial.last_epoch, trial.last_used = number, used
    trial.warnings = []
    trial.send(plain)


def _checked(config: TrialConfig, metrics: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: values.metric(name, value) for name, value in metrics.items()}
    if config.metric not in numbers:
        raise ReportError(
            f"the report lacks {config.metric!r}, the metric of this sweep; "
            f"it has: {', '.join(sorted(numbers)) or 'nothing'}"
        )
    for name in config.aims:
        if name not in numbers:
            raise ReportError(
                f"the report lacks {name!r}, which search.metrics or search.constraints need; "
                f"it has: {', '.join(sorted(numbers))}"
            )
    return numbers


def _refuse_test(config: TrialConfig, names: Sequence[str]) -> None:
    """Raise ReportError for a metric or a fact of the test split from a trial of the search."""
    for name in names:
        if name.startswith("test_") and config.test_permit is None:
            raise ReportError(
                f"{name} was reported by a trial without a permit to open test; "
                "only the repeats of `samtune confirm` have one"
            )


def _used(trial: _Running, epoch: int, numbers: Mapping[str, float]) -> float:
    """Return the budget that the trial has used, over all attempts."""
    budget = trial.config.budget
    match budget.kind:
        case "epochs":
            # A budget of 2.5 epochs ends half-way through the third.
            return min(float(epoch), budget.per_trial)
        case "seconds":
            return _seconds(trial, numbers.get("train_s"))
        case "compute":
            if "see" not in numbers:
                raise ReportError(
                    "a budget of kind compute needs `see` in each report: "
                    "(forward + 2 * backward samples) / (3 * training-set size); "
                    "or set budget.kind to epochs or seconds"
                )
            return numbers["see"]


def _seconds(trial: _Running, train_s: float | None) -> float:
    before = trial.config.used
    if train_s is None:
        return before + time.monotonic() - trial.started
    if trial.earlier_train_s is None:
        trial.earlier_train_s = before if train_s < before else 0.0
    return trial.earlier_train_s + train_s
