"""The ranking of a search's trials, by their own values and by those of the select stage."""

from __future__ import annotations

import json

from samtune.record.reader import LAST_REPORT, Reader
from samtune.record.rows import StudyRow, TrialRow


def best(record: Reader, study: StudyRow) -> tuple[TrialRow, float] | None:
    """Return the search's best trial at its full budget and its last value.

    The earlier of equal trials wins. None while no trial has completed within the constraints.
    """
    return next(iter(ranked(record, study, most=1)), None)


def ranked(record: Reader, study: StudyRow, most: int = -1) -> list[tuple[TrialRow, float]]:
    """Return the search's completed trials with their last values, the best first.

    A trial that misses a constraint of its search is left out.

    Args:
        record: the run's record.
        study: the study, whose settings say which direction is better.
        most: how many to return; all where negative.
    """
    order = "DESC" if study.settings["mode"] == "max" else "ASC"
    aims = study.aims
    rows = record.query(
        f"SELECT t.trial, r.value, r.metrics FROM trials t JOIN reports r ON {LAST_REPORT}"
        " WHERE t.study = ? AND stage = 'search' AND state = 'completed'"
        f" ORDER BY r.value {order}, t.trial LIMIT ?",
        study.study,
        -1 if aims.limits else most,
    ).fetchall()
    if aims.limits:
        rows = [row for row in rows if aims.keeps(json.loads(row["metrics"]))]
    rows = rows[: None if most < 0 else most]
    return [(record.trial(row["trial"]), row["value"]) for row in rows]


def winners(record: Reader, study: StudyRow, most: int = -1) -> list[tuple[TrialRow, float]]:
    """Return the search's completed trials, the best first, by the select stage where it ran.

    Selected trials come first, by the mean last value of their select runs; of equal ones the
    earlier. One with a select run that did not complete comes after the selected ones.

    Args:
        record: the run's record.
        study: the study, whose settings say which direction is better.
        most: how many to return; all where negative.

    Returns:
        The trials, each with its select mean, or with its last value where it has none.
    """
    means = select_means(record, study)
    found = ranked(record, study)
    sign = -1 if study.settings["mode"] == "max" else 1
    chosen = [(trial, means[trial.trial]) for trial, _ in found if trial.trial in means]
    chosen.sort(key=lambda pair: (sign * pair[1], pair[0].trial))
    rest = [(trial, value) for trial, value in found if trial.trial not in means]
    return (chosen + rest)[: None if most < 0 else most]


def select_means(record: Reader, study: StudyRow) -> dict[int, float]:
    """Return the mean last value of each trial whose select runs have all completed.

    Where the space counts the search's value too (`select.with_search`), the mean has it.
    """
    rows = record.query(
        "SELECT t.source, COUNT(*) AS runs, SUM(t.state = 'completed') AS done,"
        f" SUM(r.value) AS total FROM trials t LEFT JOIN reports r ON {LAST_REPORT}"
        " WHERE t.study = ? AND t.stage = 'select' GROUP BY 1",
        study.study,
    ).fetchall()
    found = {row["source"]: row for row in rows if row["runs"] == row["done"]}
    if not study.settings.get("with_search"):
        return {source: row["total"] / row["runs"] for source, row in found.items()}
    return {
        trial.trial: (found[trial.trial]["total"] + value) / (found[trial.trial]["runs"] + 1)
        for trial, value in ranked(record, study)
        if trial.trial in found
    }


def select_values(record: Reader, source: TrialRow) -> dict[int, float]:
    """Return the last value of each completed select run of a trial, by seed bundle."""
    rows = record.query(
        f"SELECT t.bundle, r.value FROM trials t JOIN reports r ON {LAST_REPORT}"
        " WHERE t.source = ? AND t.state = 'completed' AND t.stage = 'select'",
        source.trial,
    )
    return {bundle: value for bundle, value in rows}


def confirmed(record: Reader, source: TrialRow) -> tuple[int, float | None]:
    """Return how many repeats of a search trial completed, and their mean last value."""
    count, mean = record.query(
        f"SELECT COUNT(*), AVG(r.value) FROM trials t JOIN reports r ON {LAST_REPORT}"
        " WHERE t.source = ? AND t.state = 'completed' AND t.stage = 'confirm'",
        source.trial,
    ).fetchone()
    return int(count), mean
