"""The record of a run: one SQLite file, the truth from which every table is made.

The driver is its only writer. It commits each report before the scheduler decides on it, and the
decision right after. So `sweep.db` alone shows what each trial was given, what it reported and
what was decided. A killed sweep resumes from it: rungs, search and interrupted trials are rebuilt
without a pickle.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune import durable
from samtune.record import checksums
from samtune.record import database as sweep_db
from samtune.record import folder as run_folder
from samtune.record.folder import RunError
from samtune.record.reader import Reader
from samtune.record.rows import Stage, State, TrialRow, canonical, digest
from samtune.trial import TrialConfig

if TYPE_CHECKING:
    from samtune.record.rows import Verdict


class Record(Reader):
    """A run's record, open for writing. Only the holder of its lock may write trials."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        """Take an open connection to the `sweep.db` in `folder`."""
        super().__init__(folder, connection)
        # The metrics whose names this process has stored.
        self._metrics: set[str] = set()

    @classmethod
    def create(
        cls,
        runs: Path,
        name: str | None,
        spaces: Sequence[Mapping[str, str]],
        asked: Mapping[str, Any] | None = None,
        code: Mapping[str, str] | None = None,
        called: str | None = None,
    ) -> Record:
        """Make the folder of a new run. A folder that has a `sweep.db` has a whole one.

        Args:
            runs: the folder of all runs.
            name: the run's name; None takes the first free of `called`, `called-2`, ...
            spaces: rows of the table studies.
            asked: the other options of the command, which its resume reads.
            code: the `provenance.code_hashes` of the trainables.
            called: what a run without a name is called; None for the names of its spaces.

        Raises:
            RunError: the name is taken (exit code 4), or the folder cannot be written (5).
        """
        if name is not None:
            run_folder.refuse_taken(runs, name)
        called = called or "-".join(space["name"] for space in spaces)[:60]
        wanted = run_folder.check_name(name or called)
        folder = runs.absolute() / wanted
        aside = runs.absolute() / f".{wanted}.{secrets.token_hex(4)}.tmp"
        try:
            runs.mkdir(parents=True, exist_ok=True)
            aside.mkdir()
            (aside / "checkpoints").mkdir()
            _write_spaces(aside, spaces)
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
        """Open the run `name`. Raise RunError (exit code 2) when there is none."""
        folder = run_folder.found(runs, name)
        connection = sweep_db.reopen(folder / "sweep.db", read_only=read_only)
        record = cls(folder, connection)
        left = not read_only and (folder / "sweep.db-wal").exists() and not record.is_locked()
        if left and checksums.log_is_cut(folder / "sweep.db", connection):
            record.add_event("damaged", "sweep.db-wal: its last commits cannot be read")
        return record

    def __enter__(self) -> Record:
        """Return the record itself."""
        return self

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing during the block.

        Raises:
            RunError: another process holds it (exit code 4), or the record is damaged.
        """
        with run_folder.locked(self.folder):
            self.verify()
            yield

    @contextmanager
    def removed_if_empty(self) -> Iterator[None]:
        """Remove the folder after the block if it holds no trial, so that its name is free."""
        try:
            yield
        finally:
            if not any(self.trials()):
                self._db.close()
                shutil.rmtree(self.folder)

    def grow(self, studies: Sequence[Mapping[str, str]], detail: str) -> None:
        """Give the run more studies, and the ones that it has other spaces.

        The trials on record stay as they are.

        Args:
            studies: rows of the table studies: those that it has in their order, then new ones.
            detail: what the run gains, for the event that is kept of it.
        """
        with durable.transaction(self._db):
            self._db.executemany(
                "INSERT INTO studies VALUES"
                " (:study, :name, :variant, :base, :space, :sha256, :settings)"
                " ON CONFLICT (study) DO UPDATE SET"
                " space = excluded.space, sha256 = excluded.sha256, settings = excluded.settings",
                [{**study, "study": k} for k, study in enumerate(studies)],
            )
            self._insert_event("grown", detail)
        _write_spaces(self.folder, studies)

    def set_meta(self, key: str, value: Any) -> None:
        """Store a value, which JSON can hold, under a key."""
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
        """Commit a proposed trial and return it."""
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
        """Start the next attempt at a trial, and return its number (from 0) and its permit.

        An attempt at a repeat gets its permit to open test here, so the permit is on record
        before test can be opened. Other attempts get None.
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
                    (permit, trial.trial, attempt, user(), trial.config_sha, now()),
                )
        return int(attempt), permit

    def add_report(self, trial: int, attempt: int, report: Mapping[str, Any], metric: str) -> int:
        """Commit a report before anything is decided on it; return its number."""
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
            if any(name.startswith("test_") for name in report["metrics"]):
                self._db.execute(
                    "UPDATE openings SET used_at = COALESCE(used_at, ?)"
                    " WHERE trial = ? AND attempt = ?",
                    (now(), trial, attempt),
                )
            self._db.executemany(
                "INSERT OR IGNORE INTO metrics VALUES (?)",
                [(name,) for name in report["metrics"] if name not in self._metrics],
            )
        self._metrics |= report["metrics"].keys()
        assert seq is not None
        return seq

    def add_decision(self, seq: int, verdict: Verdict) -> None:
        """Commit the decision on a report: `audit` if the trial continues only for the audit."""
        audit = verdict.audited and verdict.decision == "continue"
        decision = "audit" if audit else verdict.decision
        with durable.transaction(self._db):
            self._db.execute(
                "INSERT INTO decisions VALUES (?, ?, ?, ?, ?)",
                (seq, decision, verdict.rung, verdict.milestone, verdict.cutoff),
            )

    def end_attempt(self, trial: int, cause: str, wall_s: float | None = None) -> None:
        """End the open attempt at a trial that will be tried again."""
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
        """End a trial and its open attempt; the attempt's cause is the state unless given."""
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
        """End the attempts that a killed process left open, at their last report.

        Only the holder of the lock may call it.

        Returns:
            How many there were.
        """
        with durable.transaction(self._db):
            return self._db.execute(
                "UPDATE attempts SET cause = 'killed', ended_at = COALESCE(("
                "  SELECT MAX(at) FROM reports WHERE reports.trial = attempts.trial"
                "  AND reports.attempt = attempts.attempt), started_at)"
                " WHERE ended_at IS NULL"
            ).rowcount

    def add_openings(self, folder: str, openings: Sequence[Mapping[str, Any]]) -> None:
        """Commit openings of test that another folder of this run knows; known ones are kept.

        Args:
            folder: the identity of that folder.
            openings: rows of its `openings_by_key`.
        """
        known = {(row["key"], row["granted_at"]) for row in self.openings_by_key()}
        trials = {trial.key: trial.trial for trial in self.trials()}
        with durable.transaction(self._db):
            for row in openings:
                if row["key"] in trials and (row["key"], row["granted_at"]) not in known:
                    # Both folders may have granted a permit of the same name.
                    permit = f"{row['permit']}@{folder}"
                    values = [row[name] for name in ("attempt", "who", "config_sha", "granted_at")]
                    self._db.execute(
                        "INSERT OR IGNORE INTO openings VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (permit, trials[row["key"]], *values, row["used_at"]),
                    )

    def add_event(self, kind: str, detail: str = "", trial: int | None = None) -> None:
        """Commit an event, of one trial or of the run."""
        with durable.transaction(self._db):
            self._insert_event(kind, detail, trial)

    def _insert_event(self, kind: str, detail: str, trial: int | None = None) -> None:
        self._db.execute(
            "INSERT INTO events (at, kind, trial, detail) VALUES (?, ?, ?, ?)",
            (now(), kind, trial, detail),
        )


def _write_spaces(folder: Path, spaces: Sequence[Mapping[str, str]]) -> None:
    """Write the frozen spaces beside the record, for people to read."""
    for space in spaces:
        copy = "space.yaml" if len(spaces) == 1 else f"space.{space['name']}.yaml"
        durable.write(folder / copy, space["space"].encode())
    if len(spaces) > 1:
        # A run that gained its second space has the first one's under this name.
        (folder / "space.yaml").unlink(missing_ok=True)


def now() -> float:
    """Return UTC seconds since 1970."""
    return time.time()


def user() -> str:
    """Return the user's name, or the user id as text where the system knows no name for it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # As in a container that runs under an id without a passwd entry.
        return str(os.getuid())
