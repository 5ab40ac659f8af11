"""The reading side of a record: its rows, and what they add up to for a run or a study.

Each answer comes from an index, or from the few rows it is about. So a run of 10,000 trials is
described in a fraction of a second, and a sweep does not notice its readers.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from samtune.record import checksums
from samtune.record import folder as run_folder
from samtune.record.folder import RunError
from samtune.record.rows import ReportRow, Stage, State, StudyRow, TrialRow
from samtune.trial import TrialConfig

# The index on (trial, seq) finds it without reading the reports before it.
LAST_REPORT = "r.seq = (SELECT MAX(seq) FROM reports WHERE trial = t.trial)"
_REPORT = (
    "SELECT seq, trial, attempt, epoch, used, value, metrics, checkpoint_sha256, at,"
    " decision, rung, cutoff FROM reports LEFT JOIN decisions USING (seq)"
)


class Reader:
    """A run's record, open for reading. Use it as a context manager."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        """Take an open connection to the `sweep.db` in `folder`."""
        self.folder = folder
        self._db = connection

    def __enter__(self) -> Reader:
        """Return the reader itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._db.close()

    @property
    def name(self) -> str:
        """The run's name, which is its folder's name."""
        return self.folder.name

    def is_locked(self) -> bool:
        """Return True while a process writes this run."""
        return run_folder.is_locked(self.folder)

    def verify(self) -> None:
        """Read the whole record. Raise RunError when a bit differs from what was committed."""
        try:
            checksums.verify(self._db)
        except checksums.DamagedError as error:
            raise RunError(
                f"{self.folder / 'sweep.db'} is damaged ({error}): replace it by a copy, or run "
                "its space again; the tables beside it are as of the last export"
            ) from error

    def query(self, question: str, *values: Any) -> sqlite3.Cursor:
        """Return the rows of a SELECT, for tables that need columns and not whole rows."""
        return self._db.execute(question, values)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read the record as of one moment during the block, while a sweep may write."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.rollback()

    def version(self) -> int:
        """Return a number that differs once another process has written to the record."""
        return int(self.query("PRAGMA data_version").fetchone()[0])

    # Rows

    def meta(self, key: str) -> Any:
        """Return the value stored under a key, or None."""
        row = self.query("SELECT value FROM meta WHERE key = ?", key).fetchone()
        return row and json.loads(row["value"])

    def studies(self) -> list[StudyRow]:
        """Return the studies, one per space, in the order of the command line."""
        rows = self.query("SELECT * FROM studies ORDER BY study")
        return [StudyRow(**{**dict(row), "settings": json.loads(row["settings"])}) for row in rows]

    def trial(self, trial: int) -> TrialRow:
        """Return one trial by its number in the record. Raise LookupError for an unknown one."""
        row = self.query("SELECT * FROM trials WHERE trial = ?", trial).fetchone()
        if row is None:
            raise LookupError(f"run {self.name!r} has no trial {trial}")
        return self._trial(row)

    def trials(
        self,
        *,
        study: int | None = None,
        stage: Stage | None = None,
        states: Collection[State] | None = None,
        source: int | None = None,
    ) -> Iterator[TrialRow]:
        """Yield trials in the order they were proposed.

        Args:
            study: only this study's.
            stage: only this stage's.
            states: only those in one of these states.
            source: only the repeats of this search trial.
        """
        where, values = _where(study=study, stage=stage, source=source, state=states)
        rows = self._db.execute(f"SELECT * FROM trials {where} ORDER BY trial", values)
        yield from map(self._trial, rows.fetchall())

    def _trial(self, row: sqlite3.Row) -> TrialRow:
        fields = dict(row)
        config = TrialConfig.from_dict(json.loads(row["config"] or "{}"))
        # The run folder may have been moved here from another machine.
        own = str(self.folder / "checkpoints" / f"{row['trial']:05d}")
        fields["config"] = replace(config, checkpoint_dir=own)
        fields["facts"] = json.loads(row["facts"])
        return TrialRow(**fields)

    def reports(
        self, *, trial: int | None = None, stage: Stage | None = None
    ) -> Iterator[ReportRow]:
        """Yield reports with their decisions, in the order they were committed.

        Args:
            trial: only this trial's.
            stage: only those of this stage's trials.
        """
        where, values = _where(trial=trial)
        if stage is not None:
            where = "WHERE trial IN (SELECT trial FROM trials WHERE stage = ?)"
            values = [stage]
        for row in self._db.execute(f"{_REPORT} {where} ORDER BY seq", values).fetchall():
            fields = dict(row)
            fields["metrics"] = json.loads(row["metrics"])
            # SQLite stores NaN as NULL.
            fields["value"] = float("nan") if row["value"] is None else row["value"]
            yield ReportRow(**fields)

    def attempts(self, *, trial: int | None = None) -> list[sqlite3.Row]:
        """Return attempts by trial; `started` numbers them in the order they began."""
        where, values = _where(trial=trial)
        return self._db.execute(
            f"SELECT rowid AS started, * FROM attempts {where} ORDER BY trial, attempt", values
        ).fetchall()

    def openings(self) -> list[sqlite3.Row]:
        """Return the permits to open test, in the order they were granted."""
        return self.query("SELECT * FROM openings ORDER BY granted_at, permit").fetchall()

    def openings_by_key(self) -> list[dict[str, Any]]:
        """Return the permits to open test with their trials' keys, which copies of a run share."""
        rows = self.query(
            "SELECT key, permit, attempt, who, openings.config_sha, granted_at, used_at"
            " FROM openings JOIN trials USING (trial) ORDER BY granted_at, permit"
        )
        return [dict(row) for row in rows]

    def events(self, *, trial: int | None = None) -> list[sqlite3.Row]:
        """Return events, of one trial or all, in the order they happened."""
        where, values = _where(trial=trial)
        return self._db.execute(f"SELECT * FROM events {where} ORDER BY seq", values).fetchall()

    def metrics(self) -> list[str]:
        """Return the names of all metrics that were reported, the earliest first."""
        return [name for (name,) in self.query("SELECT name FROM metrics ORDER BY rowid")]

    # What rows add up to

    def last_event(self, kinds: Collection[str]) -> sqlite3.Row | None:
        """Return the newest event of one of these kinds, or None."""
        where, values = _where(kind=kinds)
        row: sqlite3.Row | None = self._db.execute(
            f"SELECT * FROM events {where} ORDER BY seq DESC LIMIT 1", values
        ).fetchone()
        return row

    def running(self) -> list[TrialRow]:
        """Return the trials that run, or ran when the sweep was killed."""
        return list(self.trials(states={"running"}))

    def counts(self) -> dict[tuple[int, Stage], dict[State, int]]:
        """Return how many trials are in each state, by study and stage."""
        found: dict[tuple[int, Stage], dict[State, int]] = {}
        for study, stage, state, count in self.query(
            "SELECT study, stage, state, COUNT(*) FROM trials GROUP BY 1, 2, 3 ORDER BY MIN(trial)"
        ):
            found.setdefault((study, stage), {})[state] = count
        return found

    def ended(self, stage: Stage, since: float = 0.0) -> int:
        """Return how many trials of a stage ended for good after a time (UTC seconds)."""
        (count,) = self.query(
            "SELECT COUNT(*) FROM trials WHERE stage = ? AND ended_at >= ?"
            " AND state NOT IN ('running', 'paused', 'cancelled')",
            stage,
            since,
        ).fetchone()
        return int(count)

    def judged_at_rungs(self) -> dict[int, list[int]]:
        """Return how many trials each rung has judged, lowest rung first, by study."""
        found: dict[int, list[int]] = {}
        for study, _, judged in self.query(
            "SELECT t.study, d.rung, COUNT(DISTINCT t.trial) FROM decisions d"
            " JOIN reports r USING (seq) JOIN trials t USING (trial)"
            " WHERE d.rung IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2"
        ):
            found.setdefault(study, []).append(judged)
        return found

    def rungs_reached(self) -> dict[int, int]:
        """Return the highest rung that judged each trial."""
        rows = self.query(
            "SELECT r.trial, MAX(d.rung) FROM decisions d JOIN reports r USING (seq)"
            " WHERE d.rung IS NOT NULL GROUP BY 1"
        )
        return {trial: rung for trial, rung in rows}

    def used(self, stage: Stage | None = None) -> dict[int, float]:
        """Return the budget that each study's trials have used, in the budget's unit.

        Args:
            stage: Only the trials of this stage.
        """
        where, values = _where(stage=stage)
        rows = self._db.execute(
            "SELECT t.study, SUM(r.used) FROM trials t"
            f" JOIN reports r ON {LAST_REPORT} {where} GROUP BY 1",
            values,
        )
        return {study: used for study, used in rows}

    def last_reports(self) -> dict[int, tuple[float | None, float, int]]:
        """Return each trial's last value, budget used and epoch."""
        rows = self.query(
            "SELECT t.trial, r.value, r.used, r.epoch FROM trials t"
            f" JOIN reports r ON {LAST_REPORT}"
        )
        return {trial: (value, used, epoch) for trial, value, used, epoch in rows}

    def last_metrics(self, *, study: int | None = None) -> dict[int, dict[str, float]]:
        """Return all metrics of each trial's last report.

        Args:
            study: Only the trials of this study.
        """
        where, values = _where(study=study)
        rows = self._db.execute(
            f"SELECT t.trial, r.metrics FROM trials t JOIN reports r ON {LAST_REPORT} {where}",
            values,
        )
        return {trial: json.loads(metrics) for trial, metrics in rows}

    def curves(self) -> dict[int, dict[int, float]]:
        """Return the finite values of each trial by epoch; the newest attempt's where repeated."""
        found: dict[int, dict[int, float]] = {}
        for trial, epoch, value in self.query(
            "SELECT trial, epoch, value FROM reports WHERE value IS NOT NULL ORDER BY trial, seq"
        ):
            found.setdefault(trial, {})[epoch] = value
        return found

    def attempt_counts(self) -> dict[int, tuple[int, float]]:
        """Return how many attempts each trial had, and the seconds they took together."""
        rows = self.query(
            "SELECT trial, COUNT(*), COALESCE(SUM(wall_s), 0) FROM attempts GROUP BY 1"
        )
        return {trial: (count, seconds) for trial, count, seconds in rows}

    def seconds_worked(
        self, *, study: int | None = None, stage: Stage | None = None, until: float | None = None
    ) -> float:
        """Return for how many seconds at least one trial was running.

        The time between a stop and its resume is not counted.

        Args:
            study: only this study's trials.
            stage: only this stage's trials.
            until: the end (UTC seconds) of attempts that still run. Without it, an attempt that a
                killed process left open ends with its last report.
        """
        where, values = _where(study=study, stage=stage)
        rows = self._db.execute(
            "SELECT a.started_at, COALESCE(a.ended_at, ?, (SELECT MAX(at) FROM reports r"
            " WHERE r.trial = a.trial AND r.attempt = a.attempt), a.started_at)"
            f" FROM attempts a JOIN trials USING (trial) {where}",
            [until, *values],
        )
        return _covered((begin, end) for begin, end in rows)


def _where(**columns: Any) -> tuple[str, list[Any]]:
    """Return a WHERE clause and its values; a column that is None is left out."""
    parts, values = [], []
    for column, wanted in columns.items():
        if wanted is None:
            continue
        several = (
            sorted(wanted) if isinstance(wanted, set | frozenset | list | tuple) else [wanted]
        )
        parts.append(f"{column} IN ({', '.join('?' * len(several))})")
        values += several
    return f"WHERE {' AND '.join(parts)}" if parts else "", values


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of spans."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
