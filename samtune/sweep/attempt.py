"""An attempt at a trial while Tune runs it: what it has reported, how it ends and is told of."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from samtune.messages import knob_list
from samtune.record.outcome import FAILURES, End
from samtune.record.record import Record
from samtune.record.rows import TrialRow, canonical
from samtune.sweep.progress import Progress
from samtune.sweep.rebuild import Past, recorded

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


@dataclass
class Attempt:
    """An attempt that Tune runs or is about to; `end` is set as soon as it is known."""

    trial: TrialRow
    attempt: int
    past: Past = field(default_factory=Past)
    earlier: dict[int, str] = field(default_factory=dict)
    own: set[int] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    n_val: float | None = None
    end: End | None = None
    again: bool = True
    tune_trial: Trial | None = None
    node: str = ""
    heard: float | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def recall(self, record: Record) -> None:
        """What earlier attempts at the trial have reported, and how they ended."""
        for report in record.reports(trial=self.trial.trial):
            self.earlier[report.epoch] = canonical(report.metrics)
            self.past.add(
                report.attempt,
                report.epoch,
                report.used,
                report.value,
                report.metrics,
                lambda value, report=report: recorded(report),  # type: ignore[misc]
            )
        self.failed = [
            attempt["cause"]
            for attempt in record.attempts(trial=self.trial.trial)
            if attempt["attempt"] >= self.past.attempt and attempt["cause"] in FAILURES
        ]

    def failures(self) -> list[str]:
        """Failed attempts in a row before this one, none of which got the trial any further."""
        return self.failed if self.past.attempt < self.attempt else []

    def silent_end(self, *, returned: bool, died: bool) -> End:
        """The end of an attempt of which neither a report nor an error told."""
        budget = self.trial.config.budget
        if died:
            return End("error", "the worker died", "worker_died")
        if not returned:
            return End("cancelled", "stopped on request", "stopped")
        if self.past.values:
            reason = f"returned at {self.past.used:g} of {budget.per_trial:g}"
            return End("completed", reason, "completed")
        self.again = False
        return End("error", "the trainable returned without a report", "error")


def trial_name(trial: TrialRow, progress: Progress) -> str:
    """`asam trial 3`, `asam repeat 2`, or `asam repeat 2 of #3` of the third best."""
    space = progress.studies[trial.study]
    if trial.bundle is None:
        return f"{space} trial {trial.number}"
    rank = f" of #{trial.rank + 1}" if trial.rank else ""
    return f"{space} repeat {trial.bundle + 1}{rank}"


def sentence(live: Attempt, end: End, progress: Progress) -> str:
    """What a person is told when it ends: `[3/32] asam trial 3  completed  ...`."""
    trial, values = live.trial, live.past.by_epoch()
    told = ""
    if trial.bundle is None:
        free = progress.searched[trial.study]
        told = knob_list({k: v for k, v in trial.config.knobs.items() if k in free})
    last = f"{progress.metric} {values[max(values)]:.4f}" if values else ""
    why = end.reason or "" if end.state in {"error", "diverged"} else ""
    ended = f"[{progress.ended}/{progress.total}] {trial_name(trial, progress)}"
    return "  ".join(part for part in (ended, end.state, last, told, why) if part)
