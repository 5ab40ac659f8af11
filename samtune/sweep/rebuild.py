"""The trials of a killed or stopped run, gone through once more from its record."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from samtune.record.outcome import End, after_report, is_finite
from samtune.record.record import Record
from samtune.record.rows import Decision, ReportRow, Stage, TrialRow, Verdict


@dataclass
class Past:
    """What a trial has on record: its finite values, and how far its reports have come."""

    values: list[tuple[int, int, float]] = field(default_factory=list)
    epoch: float = -math.inf
    attempt: int = 0
    used: float = 0.0
    value: float = math.nan
    verdict: Verdict | None = None

    def add(
        self,
        attempt: int,
        epoch: int,
        used: float,
        value: float,
        metrics: Mapping[str, float],
        judge: Callable[[float], Verdict],
    ) -> Verdict:
        """Take in the next report, and return its verdict.

        A report that goes no further than those before it is not judged again: an interrupted
        trial went back to its checkpoint. `judge` is given the value, or NaN where the training
        loss has diverged.
        """
        verdict = Verdict("continue")
        finite = is_finite(value, metrics)
        if finite:
            self.values.append((attempt, epoch, value))
        if self.goes_further(epoch, used):
            verdict = judge(value if finite else math.nan)
            self.epoch, self.attempt, self.verdict = max(epoch, self.epoch), attempt, verdict
            self.used, self.value = used, value
        return verdict

    def goes_further(self, epoch: int, used: float) -> bool:
        """Return whether a report goes further than all before it.

        Seconds go on in a trial that began again at its first epoch.
        """
        return epoch > self.epoch or used > self.used

    def by_epoch(self, before: float = math.inf) -> dict[int, float]:
        """The finite values by epoch, of the attempts before one."""
        return {epoch: value for attempt, epoch, value in self.values if attempt < before}

    def end(self, trial: TrialRow, attempt: int) -> End | None:
        """How the trial's newest attempt was ended by its reports, said already or not.

        What came before that attempt has ended nothing: a trial goes on after a pause.
        """
        if self.verdict is None or self.attempt != attempt:
            return None
        budget, metric = trial.config.budget, trial.config.metric
        return after_report(int(self.epoch), self.used, self.value, self.verdict, budget, metric)


def recorded(report: ReportRow) -> Verdict:
    """The verdict on record; `audit` is going on after a stop, to show whether that was right."""
    audited = report.decision == "audit"
    decision = "continue" if audited else report.decision or "continue"
    return Verdict(cast(Decision, decision), report.rung, None, report.cutoff, audited)


def rejudge(
    record: Record,
    stage: Stage,
    judge: Callable[[ReportRow, float], Verdict],
    between: Iterable[tuple[int, Callable[[], object]]] = (),
) -> dict[int, Past]:
    """Judges a stage's reports once more, in the order in which they were committed.

    A report that was committed and not decided on any more is decided on now. `between` holds
    what else happened, each with the number of the report after which it did. A recorded decision
    stands even where `judge` has come to another one: its trial has acted on it.
    """
    pasts: dict[int, Past] = defaultdict(Past)
    waiting = deque(between)
    for report in record.reports(stage=stage):
        while waiting and waiting[0][0] < report.seq:
            waiting.popleft()[1]()
        past = pasts[report.trial]
        further = past.goes_further(report.epoch, report.used)
        verdict = past.add(
            report.attempt,
            report.epoch,
            report.used,
            report.value,
            report.metrics,
            partial(judge, report),
        )
        if report.decision is None:
            record.add_decision(report.seq, verdict)
        elif further and dataclasses.replace(verdict, milestone=None) != recorded(report):
            record.add_event("replay differs", f"{verdict} at report {report.seq}", report.trial)
            past.verdict = recorded(report)
    for _, happen in waiting:
        happen()
    return pasts
