"""The tables of a record: their schema, and a row of each in Python."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from samtune.space.aims import Aims, limits_text
from samtune.trial import TrialConfig

State = Literal["running", "paused", "completed", "pruned", "diverged", "error", "cancelled"]
Stage = Literal["search", "select", "confirm"]

SCHEMA = """
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
CREATE INDEX judged ON decisions (rung) WHERE rung IS NOT NULL;
CREATE TABLE metrics (name TEXT PRIMARY KEY);
CREATE TABLE openings (
    permit TEXT PRIMARY KEY, trial INTEGER NOT NULL REFERENCES trials, attempt INTEGER NOT NULL,
    who TEXT NOT NULL, config_sha TEXT NOT NULL, granted_at REAL NOT NULL, used_at REAL);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT NOT NULL,
    trial INTEGER, detail TEXT NOT NULL);
"""


@dataclass(frozen=True)
class StudyRow:
    """The search of one space: its frozen text and its settings."""

    study: int
    name: str
    variant: str
    base: str
    space: str
    sha256: str
    settings: dict[str, Any]

    @property
    def aims(self) -> Aims:
        """The metrics that it improves, and its constraints."""
        return Aims.of(self.settings)

    @property
    def no_winner(self) -> str:
        """Why it has no winner, where it has none."""
        limits = limits_text(self.aims.limits)
        within = f" within its constraints ({limits})" if limits else ""
        return f"no trial was completed{within}"


@dataclass(frozen=True)
class TrialRow:
    """A trial; `number` counts within its study and stage, and `trial` within the record."""

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
    """A report and the decision on it; `seq` counts the reports of a record from 1."""

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
    """Return JSON that is equal for equal values: sorted keys, no spaces, shortest floats."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def digest(text: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


Decision = Literal["continue", "stop", "pause", "complete"]


@dataclass(frozen=True)
class Verdict:
    """The decision on a report.

    Attributes:
        decision: what the trial does next.
        rung: the rung that judged, from 0; None where no milestone was judged.
        milestone: the budget at which that rung judges.
        cutoff: the worst value that stays at that rung at this moment; None while none stays.
        audited: True for a trial that was stopped and goes on only to audit that stop.
    """

    decision: Decision
    rung: int | None = None
    milestone: float | None = None
    cutoff: float | None = None
    audited: bool = False
