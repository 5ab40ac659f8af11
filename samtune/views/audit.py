"""The audit of early stopping, read from the record: how often was a stop wrong?

An audited trial was stopped by its rung and still runs to its full budget. Its result has the same
data and budget as any other and is judged on validation. So it may be the search's best, and its
budget counts as spent on the search. Only the rungs do not see it: the audit asks what the rungs
alone would have missed.
"""

from __future__ import annotations

import math
from collections import defaultdict

from samtune.record.reader import Reader
from samtune.record.rows import ReportRow, StudyRow, TrialRow

AUDIT = "audit"
"""The recorded decision on each report of an audited trial after its stop."""


def wrong_stops(record: Reader, study: int | None = None) -> tuple[int, int]:
    """Return how many audited trials have ended, and how many of them were stopped wrongly.

    A stop was wrong if the trial, at its full budget, beats the best trial that the rungs let
    through. The rate of wrong stops among all stops has a binomial interval.

    Args:
        record: the run.
        study: only this study; all together without it.
    """
    audited = wrong = 0
    for row in _studies(record, study):
        sign = 1 if row.settings["mode"] == "max" else -1
        trials = _search_trials(record, row)
        stops = {trial.trial: _stop(reports) for trial, reports in trials}
        finals = {
            trial.trial: sign * reports[-1].value
            for trial, reports in trials
            if trial.state == "completed"
        }
        kept = [value for trial, value in finals.items() if stops[trial] is None]
        for trial, _ in trials:
            if stops[trial.trial] is not None and trial.state in {"completed", "diverged"}:
                audited += 1
                final = finals.get(trial.trial)
                wrong += final is not None and final > max(kept, default=-math.inf)
    return audited, wrong


def audit_used(record: Reader, study: int | None = None) -> float:
    """Return the budget that audited trials have used after they were stopped."""
    return sum(
        reports[-1].used - stop.used
        for row in _studies(record, study)
        for _, reports in _search_trials(record, row)
        if (stop := _stop(reports)) is not None
    )


def _studies(record: Reader, study: int | None) -> list[StudyRow]:
    return [row for row in record.studies() if study in {None, row.study}]


def _search_trials(record: Reader, study: StudyRow) -> list[tuple[TrialRow, list[ReportRow]]]:
    """Return the study's trials that have reported, each with its reports."""
    reports: dict[int, list[ReportRow]] = defaultdict(list)
    for report in record.reports():
        reports[report.trial].append(report)
    trials = record.trials(study=study.study, stage="search")
    return [(trial, reports[trial.trial]) for trial in trials if reports[trial.trial]]


def _stop(reports: list[ReportRow]) -> ReportRow | None:
    """Return the report at which an audited trial was stopped; None for a trial not audited."""
    decisions = [report.decision for report in reports]
    # A trial that was promoted later is no longer audited.
    if AUDIT not in decisions or "continue" in decisions[decisions.index(AUDIT) :]:
        return None
    return [report for report in reports if report.rung is not None][-1]
