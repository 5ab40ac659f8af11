"""An attempt at a trial while Tune runs it, with its reports and its end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from samtune.messages import knob_list
from samtune.record.outcome import FAILURES, End
from samtune.record.record import Record
from samtune.record.rows import TrialRow, canonical
from samtune.sweep.progress import Progress
from samtune.sweep.rebuild import Past, recorded


@dataclass
class Attempt:
    """An attempt that Tune runs, or is about to run.

    Attributes:
        past: The reports of this and earlier attempts.
        earlier: The metrics that earlier attempts reported, by epoch.
        own: The epochs that this attempt has reported.
        failed: The causes of the failed attempts that did not get further than the best one.
        n_val: How many samples the value is measured on.
        end: Its end, once that is known.
        again: Whether it may be tried again.
        worker: The Ray actor that runs it, None until it has started.
        node: The beginning of the id of the worker's node.
        heard: When the worker was last heard of.
    """

    trial: TrialRow
    attempt: int
    past: Past = field(default_factory=Past)
    earlier: dict[int, str] = field(default_factory=dict)
    own: set[int] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    n_val: float | None = None
    end: End | None = None
    again: bool = True
    worker: Any = None
    node: str = ""
    heard: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """The seconds since the attempt started."""
        return time.monotonic() - self.started

    def recall(self, record: Record) -> None:
        """Load the reports and ends of earlier attempts from the record."""
        for report in record.reports(trial=self.trial.trial):
            self.earlier[report.epoch] = canonical(report.metrics)
            further = self.past.goes_further(report.epoch, report.used)
            self.past.add(
                report.attempt,
                report.epoch,
                report.used,
                report.value,
                report.metrics,
                recorded(report) if further else None,
            )
        self.failed = [
            attempt["cause"]
            for attempt in record.attempts(trial=self.trial.trial)
            if attempt["attempt"] >= self.past.attempt and attempt["cause"] in FAILURES
        ]

    def failures(self) -> list[str]:
        """Return the causes of the failed attempts since the trial last made progress."""
        return self.failed if self.past.attempt < self.attempt else []

    def silent_end(self, *, returned: bool, died: bool) -> End:
        """Return the end of an attempt that was not ended by a report or an error."""
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
    """Return `asam trial 3`, `asam repeat 2`, or `asam select 4 of #3` for the third best."""
    space = progress.studies[trial.study]
    if trial.bundle is None:
        return f"{space} trial {trial.number}"
    rank = f" of #{trial.rank + 1}" if trial.rank else ""
    if trial.stage == "select":
        return f"{space} select {trial.number}{rank}"
    return f"{space} repeat {trial.bundle + 1}{rank}"


def describe(live: Attempt, end: End, progress: Progress) -> str:
    """Return the line about a trial that has ended: `[3/32] asam trial 3  completed  ...`."""
    trial, values = live.trial, live.past.by_epoch()
    knobs = ""
    if trial.bundle is None:
        free = progress.searched[trial.study]
        knobs = knob_list({k: v for k, v in trial.config.knobs.items() if k in free})
    last = f"{progress.metric} {values[max(values)]:.4f}" if values else ""
    why = end.reason or "" if end.state in {"error", "diverged"} else ""
    ended = f"[{progress.ended}/{progress.total}] {trial_name(trial, progress)}"
    return "  ".join(part for part in (ended, end.state, last, knobs, why) if part)
