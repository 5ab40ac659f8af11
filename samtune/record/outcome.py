"""How an attempt at a trial ended, what that makes of the trial, and whether it is tried again."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from samtune.durable import disk_refuses
from samtune.messages import printable
from samtune.record.rows import State, Verdict
from samtune.trial import Budget, ReportError

# Of these, `killed` (the sweep's own process was) and `stopped` say nothing about the trial.
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
# What raised at one place raises there again: the data and the order are the same.
_REPEATABLE = frozenset({"error", "oom"})


@dataclass(frozen=True)
class End:
    """The end of an attempt; `state` is the trial's if it is not tried again."""

    state: State
    reason: str | None
    cause: Cause


def is_finite(value: float, metrics: Mapping[str, float]) -> bool:
    """Whether a report may be judged: neither its value nor its training loss has diverged."""
    return math.isfinite(value) and math.isfinite(metrics.get("train_loss", 0.0))


def after_report(
    epoch: int, used: float, value: float, verdict: Verdict, budget: Budget, metric: str
) -> End | None:
    """What a report and its verdict end, or None where the trial goes on.

    Pure, so that a trial whose end was not recorded any more ends in the same words.
    """
    if verdict.decision == "stop" and verdict.rung is None:
        why = f"non-finite {metric} or training loss at epoch {epoch}"
        return End("diverged", why, "diverged")
    at = f"{metric} {value:.4f} at rung {verdict.rung}"
    if verdict.cutoff is not None:
        at += f", cutoff {verdict.cutoff:.4f}"
    if verdict.decision == "stop":
        return End("pruned", at, "pruned")
    # Most trainables end here by themselves; none gets more than the others.
    if used >= budget.per_trial * (1 - 1e-9):
        return End("completed", None, "completed")
    if verdict.decision == "pause":
        return End("paused", at, "paused")
    return None


def of_exception(error: BaseException) -> tuple[Cause, bool]:
    """The cause that an exception in a trainable is, and whether trying again could help.

    Out of memory is not met by a smaller batch: micro-batches change what SAM's ascent sees.
    """
    if disk_refuses(error):
        return "disk_full", True
    # By name: torch has its own, and this side of samtune does not import torch.
    named = type(error).__name__ == "OutOfMemoryError"
    # What torch's allocator of host memory says is a plain RuntimeError.
    said = re.search("not enough memory|can't allocate memory", str(error))
    if isinstance(error, MemoryError) or named or said:
        return "oom", True
    return "error", not isinstance(error, ReportError)


def failure(error: BaseException) -> dict[str, Any]:
    """What an exception in a trainable was, in plain values: Ray would pickle no user's own."""
    cause, again = of_exception(error)
    told = f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    return {"error": told, "traceback": trace, "cause": cause, "again": again}


def of_death(told: str) -> Cause:
    """The cause behind what Ray tells of a worker that is no more."""
    if re.search(r"node (has |was |is )?(died|dead|terminated|preempted|unreachable)", told):
        return "node_lost"
    if "OutOfMemoryError" in told or "running low on memory" in told:
        return "oom"
    return "worker_died"


def shortly(told: str) -> str:
    """What a person is told of a worker's death, of which Ray tells in a paragraph."""
    if of_death(told) == "oom":
        return "its process was killed, because its machine ran low on memory"
    if code := re.search(r"exits? with an exit code (\d+)", told):
        return f"its process ended with code {code[1]}"
    if "Worker exit type: SYSTEM_ERROR" in told:
        return "its process was killed, or crashed"
    return printable(told.splitlines()[-1])


def is_final(failures: Sequence[str], retries: int) -> bool:
    """Whether a trial is given up after these failed attempts, none of which got it any further.

    A trial is tried `retries` times more, an exception once: raised twice at the same epoch, it
    is the trial's own.
    """
    again = len(failures) > 1 and set(failures[-2:]) <= _REPEATABLE
    return again or len(failures) > retries
