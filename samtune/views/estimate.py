"""An estimate of the time of a space, by the pace of an earlier run of its trainable and task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samtune.record.folder import RunError, names
from samtune.record.reader import Reader
from samtune.record.record import Record
from samtune.record.rows import StudyRow
from samtune.space.search_space import SearchSpace


@dataclass(frozen=True)
class _Pace:
    """The pace of the trials of an earlier run.

    Attributes:
        run: The name of the run.
        created_at: When it was created, in UTC seconds.
        trials: How many of its trials were measured.
        seconds: Seconds that a trial worked per unit of its budget.
    """

    run: str
    created_at: float
    trials: int
    seconds: float


def estimate(
    space: SearchSpace, planned: Mapping[str, Any], slots: int, runs: Path
) -> dict[str, Any] | None:
    """Return how long a space may take on its own, as JSON can hold it.

    Args:
        space: The space.
        planned: Its plan.
        slots: How many trials run at once.
        runs: The folder that holds the earlier runs.

    Returns:
        The `run` that the estimate comes from, the number of its `trials` that were measured,
        their `seconds_per_unit` of the budget, the `slots`, and the seconds of the search with its
        select runs, of the confirmation and of both: `search_s`, `confirm_s`, `seconds`. None
        where no trial fits on the machine, and where no earlier run had the same trainable, base,
        task, resources of a trial and kind of budget.
    """
    pace = _pace(space, runs) if slots else None
    if pace is None:
        return None
    trial = space.budget.per_trial * pace.seconds
    search = max(planned["budget_expected"] * pace.seconds / slots, trial)
    if planned["select"]:
        search += math.ceil(planned["select"]["top"] * planned["select"]["seeds"] / slots) * trial
    repeats = planned["confirm"]["budget_expected"] / space.budget.per_trial
    confirm = math.ceil(repeats / slots) * trial
    return {
        "run": pace.run,
        "trials": pace.trials,
        "seconds_per_unit": pace.seconds,
        "slots": slots,
        "search_s": search,
        "confirm_s": confirm,
        "seconds": search + confirm,
    }


def _pace(space: SearchSpace, runs: Path) -> _Pace | None:
    """Return the pace of the newest run that fits a space; None where none fits."""
    found = []
    for name in names(runs):
        try:
            with Record.open(runs, name, read_only=True) as record:
                measured = (
                    _measured(record, study)
                    for study in record.studies()
                    if _fits(record, study, space)
                )
                found += [each for each in measured if each is not None]
        except RunError:
            # An unreadable run says nothing about this one.
            continue
    return max(found, key=lambda pace: pace.created_at, default=None)


def _fits(record: Reader, study: StudyRow, space: SearchSpace) -> bool:
    """Return whether the trials of a study cost what those of a space would."""
    if (study.variant, study.base) != (space.variant, space.base):
        return False
    first = record.query("SELECT trial FROM trials WHERE study = ? LIMIT 1", study.study)
    row = first.fetchone()
    if row is None:
        return False
    config, wanted = record.trial(row["trial"]).config, space.resources
    return (
        config.trainable == space.trainable
        and config.task == space.trial_task
        and config.budget.kind == space.budget.kind
        and (config.cpus, config.gpus, config.workers)
        == (wanted.cpus, wanted.gpus, wanted.workers)
    )


def _measured(record: Reader, study: StudyRow) -> _Pace | None:
    """Return the pace of the trials that came to an end without being interrupted."""
    count, seconds, used = record.query(
        "SELECT COUNT(*), SUM(seconds), SUM(used) FROM ("
        " SELECT SUM(wall_s) AS seconds,"
        " (SELECT MAX(used) FROM reports r WHERE r.trial = t.trial) AS used"
        " FROM trials t JOIN attempts a USING (trial)"
        " WHERE t.study = ? AND t.state IN ('completed', 'pruned')"
        " GROUP BY t.trial HAVING COUNT(*) = COUNT(wall_s))",
        study.study,
    ).fetchone()
    if not used or not seconds:
        return None
    return _Pace(record.name, record.meta("created_at") or 0.0, count, seconds / used)
