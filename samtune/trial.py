"""What a trainable sees of samtune: the resolved configuration of its trial, and `report`."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from samtune.errors import SamtuneError

BudgetKind = Literal["compute", "epochs", "seconds"]
Value = float | int | str | bool


class ReportError(SamtuneError):
    """A trainable reported something that no leaderboard could hold; ends this trial only."""


@dataclass(frozen=True)
class Budget:
    """The most one trial may use: SGD-epoch equivalents (see), epochs, or training seconds."""

    kind: BudgetKind
    per_trial: float


@dataclass(frozen=True)
class Seeds:
    """What is random in a trial. Equal seeds mean the same split, weights and batches."""

    init: int
    order: int
    split: int


@dataclass(frozen=True)
class TrialConfig:
    """One trial, fully resolved: plain values only, so it travels to any worker as it is.

    `checkpoint_dir` is the trial's own folder, or None for no checkpoints; a trial that finds a
    checkpoint there goes on from it. `test_permit` names the logged permission to open the test
    split; search trials have none. With `workers` above 1 as many processes run the trainable, in
    the environment that torchrun would give them: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
    Each has `cpus` and `gpus`, all report alike, and only rank 0's report counts.
    """

    trainable: str
    variant: str
    base: str
    knobs: Mapping[str, Value]
    task: Mapping[str, Value]
    budget: Budget
    seeds: Seeds
    metric: str = "val_acc"
    checkpoint_dir: str | None = None
    test_permit: str | None = None
    cpus: float = 1
    gpus: float = 0
    workers: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of plain values; `from_dict` is the inverse."""
        plain = dataclasses.asdict(self)
        return {**plain, "knobs": dict(self.knobs), "task": dict(self.task)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TrialConfig:
        return cls(
            **{
                **plain,
                "budget": Budget(**plain["budget"]),
                "seeds": Seeds(**plain["seeds"]),
            }
        )


@dataclass
class _Running:
    config: TrialConfig
    send: Callable[[dict[str, Any]], None]
    started: float = field(default_factory=time.monotonic)
    last_epoch: int = 0
    last_used: float = 0.0
    warnings: list[str] = field(default_factory=list)


_running: ContextVar[_Running | None] = ContextVar("running trial", default=None)


@contextmanager
def running(config: TrialConfig, send: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Inside the block `report` hands each checked report to `send`.

    The sweep sends to Ray Tune; `running(config, reports.append)` runs a trainable without Ray.
    """
    token = _running.set(_Running(config, send))
    try:
        yield
    finally:
        _running.reset(token)


def report(
    *,
    epoch: int,
    checkpoint: str | None = None,
    checkpoint_sha256: str | None = None,
    facts: Mapping[str, Value] | None = None,
    **metrics: Any,
) -> None:
    """Reports the end of an epoch (or of the budget); call it after the checkpoint is on disk.

    `metrics` are numbers: Python's, or 0-dim tensors and arrays. The trial's metric (`val_acc`
    unless the space says otherwise) is always asked for; a budget of kind `compute` also asks for
    `see`, the SGD-epoch equivalents spent since the trial's start. A non-finite metric ends the
    trial as diverged, and a report that has used the whole budget ends it as completed. `facts`
    are constants of the trial (`n_params`, `device`, ...); once is enough.

    Raises ReportError for a missing or non-numeric metric, for an epoch or a use of the budget
    below the last one, and for a `test_` metric from a trial that may not open test.
    """
    running = _running.get()
    if running is None:
        raise ReportError(
            "samtune.report was called outside a trial; run the trainable by `samtune run`, "
            "or inside `samtune.trial.running(config, send)`"
        )
    if epoch < running.last_epoch:
        raise ReportError(f"epoch {epoch} was reported after epoch {running.last_epoch}")
    numbers = {name: _number(name, value) for name, value in metrics.items()}
    if running.config.metric not in numbers:
        raise ReportError(
            f"the report lacks {running.config.metric!r}, the metric of this sweep; "
            f"it has: {', '.join(sorted(numbers)) or 'nothing'}"
        )
    for name in numbers:
        if name.startswith("test_") and running.config.test_permit is None:
            raise ReportError(
                f"{name} was reported by a trial without a permit to open test; "
                "only the repeats of `samtune confirm` have one"
            )
    used = _used(running, epoch, numbers)
    if not 0 <= used < math.inf or used < running.last_used:
        raise ReportError(
            f"{used} of the budget is used after {running.last_used}; "
            "what a trial has used is finite and never falls"
        )
    running.last_epoch, running.last_used = epoch, used
    running.send(
        {
            "epoch": int(epoch),
            "used": used,
            "metrics": numbers,
            "checkpoint": checkpoint,
            "checkpoint_sha256": checkpoint_sha256,
            "facts": dict(facts or {}),
            "warnings": running.warnings,
        }
    )
    running.warnings = []


def warn(text: str) -> None:
    """Puts a warning on the sweep's record, with the trial's next report.

    Outside a trial it is one of Python's.
    """
    running = _running.get()
    if running is None:
        warnings.warn(text, stacklevel=2)
    else:
        running.warnings.append(text)


def _used(running: _Running, epoch: int, numbers: Mapping[str, float]) -> float:
    match running.config.budget.kind:
        case "epochs":
            # A budget of 2.5 epochs ends half-way through the third.
            return min(float(epoch), running.config.budget.per_trial)
        case "seconds":
            return numbers.get("train_s", time.monotonic() - running.started)
        case "compute":
            if "see" not in numbers:
                raise ReportError(
                    "a budget of kind compute needs `see` in each report: "
                    "(forward + 2 * backward samples) / (3 * training-set size); "
                    "or set budget.kind to epochs or seconds"
                )
            return numbers["see"]


def _number(name: str, value: Any) -> float:
    if hasattr(value, "item"):
        try:
            value = value.item()
        except (RuntimeError, ValueError):
            raise ReportError(f"{name} is an array of several values, not a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReportError(f"{name} is {value!r}, not a number")
    return value
