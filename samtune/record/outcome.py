"""The end of an attempt at a trial, the state of the trial then, and the decision to retry it."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from samtune.durable import disk_refuses
from samtune.record.rows import State, Verdict
from samtune.trial import Budget, ReportError

# `killed` is the sweep's own process. It and `stopped` say nothing about the trial.
Cause = Literal[
    "completed",
    "pruned",
    "paused",
    "diverged",
    "error",
    "oom",
    "stalled",
    "worker_died",
    "node_lost",
    "disk_full",
    "stopped",
    "killed",
]
FAILURES = frozenset({"error", "oom", "stalled", "worker_died", "node_lost"})
# An exception is raised again at the same place: the data and their order are the same.
_REPEATABLE = frozenset({"error", "oom"})
# Plain RuntimeErrors of torch: its allocator of host memory, kernels and libraries on a GPU.
_NO_MEMORY = re.compile(
    "not enough memory|can't allocate memory|CUDA error: out of memory|_STATUS_ALLOC_FAILED"
)
_LONGEST_LINE = 2000
_LONGEST_TRACE = 20_000


@dataclass(frozen=True)
class End:
    """The end of an attempt. `state` is the state of the trial if it is not tried again."""

    state: State
    reason: str | None
    cause: Cause


def is_finite(value: float, metrics: Mapping[str, float]) -> bool:
    """Return whether neither the value nor the training loss of a report has diverged."""
    return math.isfinite(value) and math.isfinite(metrics.get("train_loss", 0.0))


def after_report(
    epoch: int, used: float, value: float, verdict: Verdict, budget: Budget, metric: str
) -> End | None:
    """Return the end that follows from a report and its verdict, or None if the trial continues.

    This is a pure function, so a trial without a recorded end before a crash ends the same way.
    """
    if verdict.decision == "stop" and verdict.rung is None:
        why = f"non-finite {metric} or training loss at epoch {epoch}"
        return End("diverged", why, "diverged")
    at = f"{metric} {value:.4f} at rung {verdict.rung}"
    if verdict.cutoff is not None:
        at += f", cutoff {verdict.cutoff:.4f}"
    if verdict.decision == "stop":
        return End("pruned", at, "pruned")
    # Most trainables end here by themselves. Ending the others gives all the same budget.
    if used >= budget.per_trial * (1 - 1e-9) or verdict.decision == "complete":
        return End("completed", None, "completed")
    if verdict.decision == "pause":
        return End("paused", at, "paused")
    return None


def of_exception(error: BaseException) -> tuple[Cause, bool]:
    """Return the cause that an exception in a trainable belongs to, and whether to retry.

    A smaller batch is no answer to too little memory: micro-batches change SAM's ascent step.
    """
    if disk_refuses(error):
        return "disk_full", True
    # By name: torch has its own, and this side of samtune does not import torch.
    named = type(error).__name__ == "OutOfMemoryError"
    said = _NO_MEMORY.search(_message(error))
    if isinstance(error, MemoryError) or named or said:
        return "oom", True
    return "error", not isinstance(error, ReportError)


def failure(error: BaseException) -> dict[str, Any] | None:
    """Return an exception in a trainable as plain values, because Ray would pickle the exception.

    Returns:
        `error` (one line), `traceback`, `cause` and `again`. None for `sys.exit()` and
        `sys.exit(0)`, which are a return.
    """
    if isinstance(error, SystemExit) and (error.code is None or error.code == 0):
        return None
    cause, again = of_exception(error)
    line = f"{type(error).__name__}: {_message(error)}".removesuffix(": ")
    trace = "".join(traceback.format_exception(error))
    return {
        "error": line[:_LONGEST_LINE],
        "traceback": trace[-_LONGEST_TRACE:],
        "cause": cause,
        "again": again,
    }


def _message(error: BaseException) -> str:
    """Return the exception's message, even if its __str__ raises."""
    try:
        return str(error)
    except Exception:
        return "(its message cannot be shown)"


def is_final(failures: Sequence[str], retries: int) -> bool:
    """Return whether a trial is not retried after these failures in a row without progress.

    A trial is tried `retries` times more, but only once more after an exception: one that is
    raised twice at the same epoch will be raised again.
    """
    again = len(failures) > 1 and set(failures[-2:]) <= _REPEATABLE
    return again or len(failures) > retries
