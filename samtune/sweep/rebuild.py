"""Replay of a run's recorded reports, which rebuilds the state of the run."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from samtune.record.outcome import End, after_report, is_finite
from samtune.record.record import Record
from samtune.record.rows import Decision, ReportRow, Stage, TrialRow, Verdict


def judged_value(value: float, metrics: Mapping[str, float]) -> float:
    """Return the value to judge: NaN where it or the training loss has diverged."""
    return value if is_finite(value, metrics) else math.nan


@dataclass
class Past:
    """A trial as the record has it: its finite values, and how far its reports go.

    Attributes:
        values: Attempt, epoch and value of each finite report.
        ends: All metrics of the last finite report of each attempt.
    """

    values: list[tuple[int, int, float]] = field(default_factory=list)
    ends: dict[int, Mapping[str, float]] = field(default_factory=dict)
    epoch: float = -math.inf
    attempt: int = 0
    used: float = 0.0
    value: float = math.nan
    verdict: Verdict | None = None

    def goes_further(self, epoch: int, used: float) -> bool:
        """Return whether a report goes further than all before it, so that it must be judged.

        A report that does not comes from an interrupted trial that went back to its checkpoint. A
        trial that started again at its first epoch keeps the seconds that it has used.
        """
        return epoch > self.epoch or used > self.used

    def add(
        self,
        attempt: int,
        epoch: int,
        used: float,
        value: float,
        metrics: Mapping[str, float],
        verdict: Verdict | None,
    ) -> None:
        """Add the next report, and its verdict if it was judged."""
        if is_finite(value, metrics):
            self.values.append((attempt, epoch, value))
            self.ends[attempt] = metrics
        if verdict is not None:
            self.epoch, self.attempt, self.verdict = max(epoch, self.epoch), attempt, verdict
            self.used, self.value = used, value

    def by_epoch(self, before: float = math.inf) -> dict[int, float]:
        """Return the finite values by epoch, of the attempts before one."""
        return {epoch: value for attempt, epoch, value in self.values if attempt < before}

    def last(self, before: float = math.inf) -> Mapping[str, float]:
        """Return all metrics of the last finite report of the attempts before one."""
        attempt = max((a for a in self.ends if a < before), default=None)
        return {} if attempt is None else self.ends[attempt]

    def end(self, trial: TrialRow, attempt: int) -> End | None:
        """Return the end that the reports of the newest attempt caused, or None.

        The reports of earlier attempts did not end the trial, because it continued after a pause.
        """
        if self.verdict is None or self.attempt != attempt:
            return None
        budget, metric = trial.config.budget, trial.config.metric
        return after_report(int(self.epoch), self.used, self.value, self.verdict, budget, metric)


def recorded(report: ReportRow) -> Verdict:
    """Return the verdict on record.

    The decision `audit` continues a stopped trial, to show whether the stop was right.
    """
    audited = report.decision == "audit"
    decision = "continue" if audited else report.decision or "continue"
    return Verdict(cast(Decision, decision), report.rung, None, report.cutoff, audited)


def rejudge(
    record: Record,
    stage: Stage,
    judge: Callable[[ReportRow, float], Verdict],
    between: Iterable[tuple[int, Callable[[], object]]] = (),
) -> dict[int, Past]:
    """Judge a stage's reports once more, in the order in which they were committed.

    A committed report without a decision gets one now. A recorded decision is kept even if `judge`
    returns another one, because the trial has already followed it.

    Args:
        record: The record with the reports, to which missing decisions are added.
        stage: The stage.
        judge: Decides on a report and its value, which is NaN for one that has diverged.
        between: Other events, each with the number of the report after which it happened.

    Returns:
        The past of each trial.
    """
    pasts: dict[int, Past] = defaultdict(Past)
    waiting = deque(between)
    for report in record.reports(stage=stage):
        while waiting and waiting[0][0] < report.seq:
            waiting.popleft()[1]()
        past = pasts[report.trial]
        verdict = None
        if past.goes_further(report.epoch, report.used):
            verdict = judge(report, judged_value(report.value, report.metrics))
            verdict = _reconciled(record, report, verdict)
        elif report.decision is None:
            record.add_decision(report.seq, Verdict("continue"))
        past.add(report.attempt, report.epoch, report.used, report.value, report.metrics, verdict)
    for _, happen in waiting:
        happen()
    return pasts


def _reconciled(record: Record, report: ReportRow, verdict: Verdict) -> Verdict:
    """Return the recorded verdict, or record and return the new one."""
    if report.decision is None:
        record.add_decision(report.seq, verdict)
    elif dataclasses.replace(verdict, milestone=None) != recorded(report):
        record.add_event("replay differs", f"{verdict} at report {report.seq}", report.trial)
        return recorded(report)
    return verdict
