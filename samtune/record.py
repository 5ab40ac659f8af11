"""The record of a run: one SQLite file, the truth from which every table is made.

The driver is its only writer. A report is committed before the scheduler decides on it, and the
decision right after, so `sweep.db` alone tells what each trial was given, did and was told. A
killed sweep goes on from it: rungs, search and interrupted trials are rebuilt without a pickle.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

from samtune import __version__
from samtune.trial import TrialConfig

if TYPE_CHECKING:
    from samtune.rungs import Verdict

State = Literal["running", "paused", "completed", "pruned", "diverged", "error", "cancelled"]
Stage = Literal["search", "confirm"]

# 2: attempts have a cause, and know the last report before their beginning and their end.
FORMAT = 2
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE studies (
    study INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, variant TEXT NOT NULL,
    base TEXT NOT NULL, space TEXT NOT NULL, sha256 TEXT NOT NULL, settings TEXT NOT NULL);
CREATE TABLE trials (
    trial INTEGER PRIMARY KEY, key TEXT NOT NULL, study INTEGER NOT NULL REFERENCES studies,
    stage TEXT NOT NULL, number INTEGER NOT NULL, origin TEXT NOT NULL, config TEXT NOT NULL,
    config_sha TEXT NOT NULL, source INTEGER REFERENCES trials, rank INTEGER, bundle INTEGER,
    state TEXT NOT NULL DEFAULT 'running', reason TEXT, facts TEXT NOT NULL DEFAULT '{}',
    proposed_at REAL NOT NULL, ended_at REAL, UNIQUE (study, stage, number));
CREATE TABLE attempts (
    trial INTEGER NOT NULL REFERENCES trials, attempt INTEGER NOT NULL,
    started_at REAL NOT NULL, ended_at REAL, wall_s REAL,
    cause TEXT, after INTEGER NOT NULL DEFAULT 0, until INTEGER, PRIMARY KEY (trial, attempt));
CREATE TABLE reports (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, trial INTEGER NOT NULL REFERENCES trials,
    attempt INTEGER NOT NULL, epoch INTEGER NOT NULL, used REAL NOT NULL, value REAL,
    metrics TEXT NOT NULL, checkpoint TEXT, checkpoint_sha256 TEXT, at REAL NOT NULL);
CREATE INDEX reports_of_trial ON reports (trial, seq);
CREATE TABLE decisions (
    seq INTEGER PRIMARY KEY REFERENCES reports, decision TEXT NOT NULL,
    rung INTEGER, milestone REAL, cutoff REAL);
CREATE TABLE openings (
    permit TEXT PRIMARY KEY, trial INTEGER NOT NULL REFERENCES trials, attempt INTEGER NOT NULL,
    who TEXT NOT NULL, config_sha TEXT NOT NULL, granted_at REAL NOT NULL, used_at REAL);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT NOT NULL,
    trial INTEGER, detail TEXT NOT NULL);
"""


class RunError(Exception):
    """A run that cannot be made, found or written. `exit_code` is what the command ends with."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class StudyRow:
    study: int
    name: str
    variant: str
    base: str
    space: str
    sha256: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class TrialRow:
    trial: int
    key: str
    study: int
    stage: Stage
    number: int
    origin: str
    config: TrialConfig
    config_sha: str
    source: int | None
    rank: int | None
    bundle: int | None
    state: State
    reason: str | None
    facts: dict[str, Any]
    proposed_at: float
    ended_at: float | None


@dataclass(frozen=True)
class ReportRow:
    seq: int
    trial: int
    attempt: int
    epoch: int
    used: float
    value: float
    metrics: dict[str, float]
    checkpoint_sha256: str | None
    at: float
    decision: str | None
    rung: int | None
    cutoff: float | None


def canonical(values: Any) -> str:
    """JSON with one spelling for equal values: sorted keys, no spaces, shortest floats."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def digest(text: str) -> str:
    """The first 16 hex digits of the SHA-256 of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_name(name: str) -> str:
    """Returns a run's name if it is one, else raises RunError (exit code 2)."""
    if not NAME.fullmatch(name) or ".." in name:
        raise RunError(
            f"{name!r} is no name for a run: 1 to 64 of a-z 0-9 . _ -, a letter or digit first",
            exit_code=2,
        )
    return name


def refuse_taken(runs: Path, name: str) -> None:
    """Raises RunError if `name` is no name (exit code 2) or already a run's (exit code 4)."""
    folder = runs.absolute() / check_name(name)
    if not folder.exists():
        return
    hint = (
        f"or look at it with `samtune status {name}`, go on with it with `samtune resume {name}`"
        if (folder / "sweep.db").is_file()
        else "or remove it: it holds no run"
    )
    raise RunError(
        f"the name {name!r} is taken: {folder} exists; choose another --name, {hint}", exit_code=4
    )


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
    ) -> Record:
        """Makes the folder `runs/name`; without a name, the first free of `space`, `space-2`, ...

        `spaces` are rows of the table studies; `asked` is what the run was asked beside them,
        for its resume. A folder that has a `sweep.db` has a whole one. Raises RunError when the
        name is taken (exit code 4) or the folder cannot be written (exit code 5).
        """
        if name is not None:
            refuse_taken(runs, name)
        wanted = check_name(name or "-".join(space["name"] for space in spaces)[:60])
        folder = runs.absolute() / wanted
        try:
            runs.mkdir(parents=True, exist_ok=True)
            count = 1
            while True:
                try:
                    folder.mkdir()
                    break
                except FileExistsError:
                    if name is not None:
                        refuse_taken(runs, name)
                    count += 1
                    folder = folder.with_name(f"{wanted}-{count}")
            (folder / "checkpoints").mkdir()
            for space in spaces:
                copy = "space.yaml" if len(spaces) == 1 else f"space.{space['name']}.yaml"
                (folder / copy).write_text(space["space"])
            unfinished = folder / "sweep.db.unfinished"
            connection = _connect(unfinished)
            connection.executescript(_SCHEMA)
            with connection:
                connection.executemany(
                    "INSERT INTO studies VALUES"
                    " (:study, :name, :variant, :base, :space, :sha256, :settings)",
                    [{**space, "study": k} for k, space in enumerate(spaces)],
                )
                meta = {
                    "format": FORMAT,
                    "samtune_version": __version__,
                    "versions": versions(),
                    "created_at": time.time(),
                    "git_commit": _git_commit(),
                    "asked": dict(asked or {}),
                }
                connection.executemany(
                    "INSERT INTO meta VALUES (?, ?)",
                    [(key, json.dumps(value)) for key, value in meta.items()],
                )
            connection.close()
            unfinished.rename(folder / "sweep.db")
            return cls(folder, _connect(folder / "sweep.db"))
        except (OSError, sqlite3.Error) as error:
            raise RunError(
                f"cannot write {folder}: {_plain(error)}; choose another folder with --runs",
                exit_code=5,
            ) from None

    @classmethod
    def open(cls, runs: Path, name: str) -> Record:
        """Opens the run `name`. Raises RunError (exit code 2) when there is none."""
        folder = runs.absolute() / check_name(name)
        if not (folder / "sweep.db").is_file():
            known = sorted(path.parent.name for path in runs.glob("*/sweep.db"))
            hint = f"runs in {runs}: {', '.join(known)}" if known else f"{runs} holds no runs"
            raise RunError(f"no run {name!r}; {hint}", exit_code=2)
        connection = _connect(folder / "sweep.db")
        try:
            (found,) = connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
        except (sqlite3.DatabaseError, TypeError) as error:
            raise RunError(f"{folder / 'sweep.db'} is not a samtune record: {error}") from None
        if json.loads(found) > FORMAT:
            raise RunError(
                f"{folder} was written by a newer samtune: "
                f"it has format {found}, and this one reads {FORMAT}"
            )
        return cls(folder, connection)

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def is_locked(self) -> bool:
        """Whether a process is writing this run."""
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                return False
        except Timeout:
            return True

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the run for writing. Raises RunError (exit code 4) while another process does."""
        lock = FileLock(self.folder / ".lock")
        try:
            # Longer than a look by `is_locked` takes.
            lock.acquire(timeout=0.5)
        except Timeout:
            raise RunError(
                f"run {self.name!r} is being written by another process; "
                f"`samtune status {self.name}` shows how far it is",
                exit_code=4,
            ) from None
        try:
            self._upgrade()
            yield
        finally:
            lock.release()

    @contextmanager
    def removed_if_empty(self) -> Iterator[None]:
        """Takes the folder away again if it is left without a trial: its name is not used up."""
        try:
            yield
        finally:
            if not any(self.trials()):
                self._db.close()
                shutil.rmtree(self.folder)

    def _upgrade(self) -> None:
        """Brings a record of an earlier format up to this one."""
        if self.meta("format") < 2:
            with self._db:
                for column in ("cause TEXT", "after INTEGER NOT NULL DEFAULT 0", "until INTEGER"):
                    self._db.execute(f"ALTER TABLE attempts ADD COLUMN {column}")
                self._set_meta("format", FORMAT)

    # Writing

    def set_meta(self, key: str, value: Any) -> None:
        with self._db:
            self._set_meta(key, value)

    def _set_meta(self, key: str, value: Any) -> None:
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
        with self._db:
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
        with self._db:
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
        with self._db:
            seq = self._db.execute(
                "INSERT INTO reports (trial, attempt, epoch, used, value, metrics, checkpoint,"
                " checkpoint_sha256, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    trial,
                    attempt,
                    report["epoch"],
                    report["used"],
                    report["metrics"][metric],
                    json.dumps(report["metrics"]),
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
        with self._db:
            self._db.execute(
                "INSERT INTO decisions VALUES (?, ?, ?, ?, ?)",
                (seq, decision, verdict.rung, verdict.milestone, verdict.cutoff),
            )

    def end_attempt(self, trial: int, cause: str, wall_s: float | None = None) -> None:
        """Ends the open attempt at a trial that will be tried again."""
        with self._db:
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
        with self._db:
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
        with self._db:
            return self._db.execute(
                "UPDATE attempts SET cause = 'killed', ended_at = COALESCE(("
                "  SELECT MAX(at) FROM reports WHERE reports.trial = attempts.trial"
                "  AND reports.attempt = attempts.attempt), started_at)"
                " WHERE ended_at IS NULL"
            ).rowcount

    def add_event(self, kind: str, detail: str = "", trial: int | None = None) -> None:
        with self._db:
            self._db.execute(
                "INSERT INTO events (at, kind, trial, detail) VALUES (?, ?, ?, ?)",
                (now(), kind, trial, detail),
            )

    # Reading

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


def versions() -> dict[str, str]:
    """The versions that a run's results may depend on."""
    found = {name: version(name) for name in ("torch", "ray", "optuna")}
    return {"samtune": __version__, **found}


def now() -> float:
    """UTC seconds since 1970."""
    return time.time()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def hostname_hash() -> str:
    """Tells machines apart without naming them."""
    return digest(socket.gethostname())


def _git_commit() -> str | None:
    """The commit of the folder in which the user stands, if that is a git checkout."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        head = folder / ".git" / "HEAD"
        if head.is_file():
            content = head.read_text().strip()
            if not content.startswith("ref: "):
                return content
            ref = folder / ".git" / content.removeprefix("ref: ")
            return ref.read_text().strip() if ref.is_file() else None
    return None


def _plain(error: BaseException) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
