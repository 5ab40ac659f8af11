"""The record of a run: one SQLite file, the truth from which every table is made.

The driver is its only writer. A report is committed before the scheduler decides on it, and the
decision right after, so `sweep.db` alone tells what each trial was given, did and was told. A
killed sweep goes on from it: rungs, search and interrupted trials are rebuilt without a pickle.
"""

from __future__ import annotations

import getpass
import json
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune import durable
from samtune.record import checksums
from samtune.record import database as sweep_db
from samtune.record import folder as run_folder
from samtune.record.folder import RunError
from samtune.record.rows import ReportRow, Stage, State, StudyRow, TrialRow, canonical, digest
from samtune.trial import TrialConfig

if TYPE_CHECKING:
    from samtune.record.rows import Verdict


class Record:
    """A run's folder, opened. Use as a context manager."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self._db = connection

    @property
    def name(self) -> str:
        return self.folder.name

    @classmethod
    def create(
        cls,
        runs: Path,
        name: str | None,
        spaces: Sequence[Mapping[str, str]],
        asked: Mapping[str, Any] | None = None,
        code: Mapping[str, str] | None = None,
    ) -> Record:
        """Makes the folder `runs/name`; without a name, the first free of `space`, `space-2`, ...

        `spaces` are rows of the table studies; `asked` is what the run was asked beside them,
        for its resume, and `code` the `provenance.code_hashes` of its trainables. A folder that
        has a `sweep.db` has a whole one. Raises RunError when the name is taken (exit code 4) or
        the folder cannot be written (exit code 5).
        """
        if name is not None:
            run_folder.refuse_taken(runs, name)
        wanted = run_folder.check_name(name or "-".join(space["name"] for space in spaces)[:60])
        folder = runs.absolute() / wanted
        aside = runs.absolute() / f".{wanted}.{secrets.token_hex(4)}.tmp"
        try:
            runs.mkdir(parents=True, exist_ok=True)
            aside.mkdir()
            (aside / "checkpoints").mkdir()
            for space in spaces:
                copy = "space.yaml" if len(spaces) == 1 else f"space.{space['name']}.yaml"
                durable.write(aside / copy, space["space"].encode())
            sweep_db.create(aside / "sweep.db", spaces, asked or {}, code or {})
            folder = run_folder.placed(aside, folder, named=name is not None)
            connection = sweep_db.connect(folder / "sweep.db")
            checksums.keep(connection)
        except (OSError, sqlite3.Error) as error:
            raise RunError(
                f"cannot write {folder}: {run_folder.plain(error)}; "
                "choose another folder with --runs",
                exit_code=5,
            ) from None
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return cls(folder, connection)

    @classmethod
    def open(cls, runs: Path, name: str, *, read_only: bool = False) -> Record:
        """Opens the run `name`. Raises RunError (exit code 2) when there is none."""
        folder = run_folder.found(runs, name)
        connection = sweep_db.reopen(folder / "sweep.db", read_only=read_only)
        record = cls(folder, connection)
        left = not read_only and (folder / "sweep.db-wal").exists() and not record.is_locked()
        if left and checksums.log_is_cut(folder / "sweep.db", connection):
            record.add_event("damaged", "sweep.db-wal: its last commits cannot be read")
        return record

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def is_locked(self) -> bool:
        """Whether a process is writing this run."""
        return run_folder.is_locked(self.folder)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the run for writing.

        Raises RunError: while another process does (exit code 4), and for a damaged record.
        """
        with run_folder.locked(self.folder):
            sweep_db.upgrade(self._db)
            self.verify()
            yield

    @contextmanager
    def removed_if_empty(self) -> Iterator[None]:
        """Takes the folder away again if it is left without a trial: its name is not used up."""
        try:
            yield
        finally:
            if not any(self.trials()):
                self._db.close()
                shutil.rmtree(self.folder)

    # Writing

    def set_meta(self, key: str, value: Any) -> None:
        with durable.transaction(self._db):
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def add_trial(
        self,
        study: int,
        stage: Stage,
        number: int,
        origin: str,
        config: TrialConfig,
        *,
        source: int | None = None,
        rank: int | None = None,
        bundle: int | None = None,
    ) -> TrialRow:
        """Commits a proposed trial."""
        plain = config.to_dict()
        identity = canonical({"base": config.base, "knobs": plain["knobs"]})
        key = digest(canonical([self.studies()[study].sha256, study, stage, number, identity]))
        with durable.transaction(self._db):
            trial = self._db.execute(
                "INSERT INTO trials (key, study, stage, number, origin, config, config_sha,"
                " source, rank, bundle, proposed_at) VALUES (?, ?, ?, ?, ?, '', ?, ?, ?, ?, ?)",
                (key, study, stage, number, origin, digest(identity), source, rank, bundle, now()),
            ).lastrowid
            assert trial is not None
            plain["checkpoint_dir"] = str(self.folder / "checkpoints" / f"{trial:05d}")
            self._db.execute(
                "UPDATE trials SET config = ? WHERE trial = ?", (canonical(plain), trial)
            )
        return self.trial(trial)

    def start_attempt(self, trial: TrialRow) -> tuple[int, str | None]:
        """Opens the next attempt at a trial; they count from 0.

        An attempt at a repeat is granted its permit to open test here, so that an opening is on
        record before it can happen.
        """
        permit = None
        with durable.transaction(self._db):
            self._db.execute(
                "UPDATE trials SET state = 'running', reason = NULL, ended_at = NULL"
                " WHERE trial = ?",
                (trial.trial,),
            )
            (attempt,) = self._db.execute(
                "SELECT COUNT(*) FROM attempts WHERE trial = ?", (trial.trial,)
            ).fetchone()
            self._db.execute(
                "INSERT INTO attempts (trial, attempt, started_at, after)"
                " SELECT ?, ?, ?, COALESCE(MAX(seq), 0) FROM reports",
                (trial.trial, attempt, now()),
            )
            if trial.stage == "confirm":
                permit = f"{trial.key}-{attempt}"
                self._db.execute(
                    "INSERT INTO openings VALUES (?, ?, ?, ?, ?, ?, NULL)",
                    (permit, trial.trial, attempt, getpass.getuser(), trial.config_sha, now()),
                )
        return int(attempt), permit

    def add_report(self, trial: int, attempt: int, report: Mapping[str, Any], metric: str) -> int:
        """Commits a report before anything is decided on it."""
        with durable.transaction(self._db):
            seq = self._db.execute(
                "INSERT INTO reports (trial, attempt, epoch, used, value, metrics, checkpoint,"
                " checkpoint_sha256, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    trial,
                    attempt,
                    report["epoch"],
                    report["used"],
                    report["metrics"][metric],
                    json.dumps(report["metrics"], separators=(",", ":")),
                    report["checkpoint"],
                    report["checkpoint_sha256"],
                    now(),
                ),
            ).lastrowid
            if report["facts"]:
                self._db.execute(
                    "UPDATE trials SET facts = json_patch(facts, ?) WHERE trial = ?",
                    (json.dumps(report["facts"]), trial),
                )
            if "test_acc" in report["metrics"]:
                self._db.execute(
                    "UPDATE openings SET used_at = ? WHERE trial = ? AND attempt = ?",
                    (now(), trial, attempt),
                )
        assert seq is not None
        return seq

    def add_decision(self, seq: int, verdict: Verdict) -> None:
        """Commits what a report led to; going on for the audit alone is the decision `audit`."""
        audit = verdict.audited and verdict.decision == "continue"
        decision = "audit" if audit else verdict.decision
        with durable.transaction(self._db):
            self._db.execute(
                "INSERT INTO decisions VALUES (?, ?, ?, ?, ?)",
                (seq, decision, verdict.rung, verdict.milestone, verdict.cutoff),
            )

    def end_attempt(self, trial: int, cause: str, wall_s: float | None = None) -> None:
        """Ends the open attempt at a trial that will be tried again."""
        with durable.transaction(self._db):
            self._end_attempt(trial, cause, wall_s)

    def end_trial(
        self,
        trial: int,
        state: State,
        reason: str | None = None,
        wall_s: float | None = None,
        cause: str | None = None,
    ) -> None:
        """Ends a trial and the open attempt at it, whose cause is the state if none is given."""
        with durable.transaction(self._db):
            self._db.execute(
                "UPDATE trials SET state = ?, reason = ?, ended_at = ? WHERE trial = ?",
                (state, reason and reason[:500], now(), trial),
            )
            self._end_attempt(trial, cause or state, wall_s)

    def _end_attempt(self, trial: int, cause: str, wall_s: float | None) -> None:
        self._db.execute(
            "UPDATE attempts SET ended_at = ?, wall_s = ?, cause = ?,"
            " until = (SELECT COALESCE(MAX(seq), 0) FROM reports)"
            " WHERE trial = ? AND ended_at IS NULL",
            (now(), wall_s, cause, trial),
        )

    def end_attempts_of_the_killed(self) -> int:
        """Ends the attempts that a killed process left open, at their last sign of life.

        Returns how many there were. Only the holder of the lock may ask.
        """
        with durable.transaction(self._db):
            return self._db.execute(
                "UPDATE attempts SET cause = 'killed', ended_at = COALESCE(("
                "  SELECT MAX(at) FROM reports WHERE reports.trial = attempts.trial"
                "  AND reports.attempt = attempts.attempt), started_at)"
                " WHERE ended_at IS NULL"
            ).rowcount

    def add_event(self, kind: str, detail: str = "", trial: int | None = None) -> None:
        with durable.transaction(self._db):
            self._db.execute(
                "INSERT INTO events (at, kind, trial, detail) VALUES (?, ?, ?, ?)",
                (now(), kind, trial, detail),
            )

    # Reading

    def query(self, question: str, *values: Any) -> sqlite3.Cursor:
        """The rows that answer a SELECT, for readers who want columns and not whole rows."""
        return self._db.execute(question, values)

    def verify(self) -> None:
        """Reads the whole record. Raises RunError when a bit of it is not as committed."""
        if self.meta("format") < sweep_db.CHECKED:
            return
        try:
            checksums.verify(self._db)
        except checksums.DamagedError as error:
            raise RunError(
                f"{self.folder / 'sweep.db'} is damaged ({error}): put a copy of it in its place, "
                "or run its space anew; the tables beside it are as of the last export"
            ) from error

    def meta(self, key: str) -> Any:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row and json.loads(row["value"])

    def studies(self) -> list[StudyRow]:
        rows = self._db.execute("SELECT * FROM studies ORDER BY study")
        return [StudyRow(**{**dict(row), "settings": json.loads(row["settings"])}) for row in rows]

    def trial(self, trial: int) -> TrialRow:
        return next(self.trials("trial = ?", trial))

    def trials(self, where: str = "1", *values: Any) -> Iterator[TrialRow]:
        """Trials in the order in which they were proposed."""
        rows = self._db.execute(f"SELECT * FROM trials WHERE {where} ORDER BY trial", values)
        for row in rows.fetchall():
            fields = dict(row)
            config = TrialConfig.from_dict(json.loads(row["config"] or "{}"))
            # The run folder may have come from another machine.
            own = str(self.folder / "checkpoints" / f"{row['trial']:05d}")
            fields["config"] = replace(config, checkpoint_dir=own)
            fields["facts"] = json.loads(row["facts"])
            yield TrialRow(**fields)

    def reports(self, where: str = "1", *values: Any) -> Iterator[ReportRow]:
        """Reports with their decisions, in the order in which they were committed."""
        rows = self._db.execute(
            "SELECT seq, trial, attempt, epoch, used, value, metrics, checkpoint_sha256, at,"
            " decision, rung, cutoff FROM reports LEFT JOIN decisions USING (seq)"
            f" WHERE {where} ORDER BY seq",
            values,
        )
        for row in rows.fetchall():
            fields = dict(row)
            fields["metrics"] = json.loads(row["metrics"])
            # SQLite keeps no NaN: it stores NULL.
            fields["value"] = float("nan") if row["value"] is None else row["value"]
            yield ReportRow(**fields)

    def attempts(self, where: str = "1", *values: Any) -> list[sqlite3.Row]:
        """Attempts by trial; `started` numbers them in the order in which they began."""
        return self._db.execute(
            f"SELECT rowid AS started, * FROM attempts WHERE {where} ORDER BY trial, attempt",
            values,
        ).fetchall()

    def openings(self) -> list[sqlite3.Row]:
        """Permissions to open test, in the order in which they were granted."""
        return self._db.execute("SELECT * FROM openings ORDER BY granted_at, permit").fetchall()

    def events(self) -> list[sqlite3.Row]:
        return self._db.execute("SELECT * FROM events ORDER BY seq").fetchall()


def now() -> float:
    """UTC seconds since 1970."""
    return time.time()
