"""How far a run is, from its record alone: no torch, no Ray, fit for another terminal.

Each question is answered by an index or by the few rows that it is about, so that a run of 10,000
trials is told in a fraction of a second and a sweep does not notice who watches.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from samtune.messages import clock, knob_list, unit
from samtune.record.record import Record, now
from samtune.record.rows import StudyRow, TrialRow
from samtune.space import strict_yaml
from samtune.views.audit import audit_used, wrong_stops

# Found in the index on (trial, seq) without a look at the reports before it.
LAST_REPORT = "r.seq = (SELECT MAX(seq) FROM reports WHERE trial = t.trial)"
# Of a trial that a resume goes on with.
_OPEN = {"running", "paused", "cancelled"}


def status_of(record: Record) -> dict[str, Any]:
    """Trials by state, best so far, rungs and budget of each study; openings of test; errors."""
    states: dict[tuple[int, str], dict[str, int]] = {}
    for study, stage, state, count in record.query(
        "SELECT study, stage, state, COUNT(*) FROM trials GROUP BY 1, 2, 3 ORDER BY MIN(trial)"
    ):
        states.setdefault((study, stage), {})[state] = count
    rungs: dict[int, list[int]] = {}
    for study, _, judged in record.query(
        "SELECT t.study, d.rung, COUNT(DISTINCT t.trial) FROM decisions d"
        " JOIN reports r USING (seq) JOIN trials t USING (trial)"
        " WHERE d.rung IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2"
    ):
        rungs.setdefault(study, []).append(judged)
    used = dict(
        tuple(row)
        for row in record.query(
            f"SELECT t.study, SUM(r.used) FROM trials t JOIN reports r ON {LAST_REPORT} GROUP BY 1"
        )
    )
    # Of the spaces of a run all budgets are of one kind.
    kind = record.query("SELECT json_extract(config, '$.budget.kind') FROM trials LIMIT 1")
    studies, clock = record.studies(), _clock(record)
    return {
        "run": record.name,
        "folder": str(record.folder),
        **clock,
        "seconds_left": _seconds_left(record, studies) if clock["running"] else None,
        "finished": _is_finished(record, studies),
        "budget_kind": next((row[0] for row in kind), None),
        "studies": [
            {
                "space": study.name,
                "variant": study.variant,
                "trials": study.settings["trials"],
                "states": states.get((study.study, "search"), {}),
                "repeats": states.get((study.study, "confirm"), {}),
                "rungs": rungs.get(study.study, []),
                "used": used.get(study.study, 0),
                "best": _best(record, study),
                "audit": _audit(record, study),
            }
            for study in studies
        ],
        "test_openings": [dict(opening) for opening in record.openings()],
        "errors": [
            {
                "trial": f"{row['name']}:{label(row['stage'], row['number'])}",
                "reason": row["reason"],
            }
            for row in record.query(
                "SELECT s.name, t.stage, t.number, t.reason FROM trials t"
                " JOIN studies s USING (study) WHERE t.state = 'error' ORDER BY t.trial"
            )
        ],
    }


def label(stage: str, number: int) -> str:
    """What a trial is called within its space: its number, with an `r` before a repeat's."""
    return f"r{number}" if stage == "confirm" else str(number)


def _audit(record: Record, study: StudyRow) -> dict[str, float] | None:
    """What the audited stops say of all; None where none were asked for."""
    if "audit" not in study.settings["scheduler"]:
        return None
    audited, wrong = wrong_stops(record, study.study)
    return {"audited": audited, "wrong": wrong, "used": audit_used(record, study.study)}


def _clock(record: Record) -> dict[str, Any]:
    """Whether it runs, and for how long it has, or had."""
    running, end = record.is_locked(), None
    if not running:
        (end,) = record.query("SELECT MAX(ended_at) FROM trials").fetchone()
    # The clock may have been set back since.
    seconds = max(0.0, (end or now()) - record.meta("created_at"))
    return {"running": running, "seconds": seconds}


def _is_finished(record: Record, studies: Sequence[StudyRow]) -> bool:
    """Whether the search, and the confirmation if one was asked for, have run to their ends."""
    if _ended(record, "search") < sum(study.settings["trials"] for study in studies):
        return False
    if not (record.meta("asked") or {}).get("confirm", True):
        return True
    last = record.query(
        "SELECT kind FROM events WHERE kind IN ('confirm started', 'confirm stopped',"
        " 'confirm ended') ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    if last is not None:
        return bool(last["kind"] == "confirm ended")
    # Without a winner there is nothing to confirm.
    return all(best_trial(record, study) is None for study in studies)


def _seconds_left(record: Record, studies: Sequence[StudyRow]) -> float | None:
    """What is left of the stage that runs, by its pace since it was started or resumed.

    None between stages, and before a trial has ended.
    """
    begun = record.query(
        "SELECT at, kind FROM events WHERE kind IN ('search started', 'search ended',"
        " 'confirm started', 'confirm ended') ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    if begun is None or begun["kind"].endswith("ended"):
        return None
    stage = begun["kind"].split()[0]
    total = sum(
        study.settings["trials"] if stage == "search" else _repeats(record, study)
        for study in studies
    )
    done = _ended(record, stage, since=begun["at"])
    left = max(0, total - _ended(record, stage))
    return max(0.0, now() - begun["at"]) / done * left if done else None


def _ended(record: Record, stage: str, since: float = 0.0) -> int:
    """How many trials of a stage will not go on; of those, the ones that ended after `since`."""
    marks = ", ".join(f"'{state}'" for state in sorted(_OPEN))
    (count,) = record.query(
        f"SELECT COUNT(*) FROM trials WHERE stage = ? AND state NOT IN ({marks})"
        " AND ended_at >= ?",
        stage,
        since,
    ).fetchone()
    return int(count)


def _repeats(record: Record, study: StudyRow) -> int:
    """How many repeats of the study's winners the confirmation has in all."""
    asked = record.meta("asked") or {}
    frozen = strict_yaml.load(study.space.encode(), study.name).plain().get("confirm", {})
    winners = "study = ? AND stage = 'search' AND state = 'completed'"
    (completed,) = record.query(
        f"SELECT COUNT(*) FROM trials WHERE {winners}", study.study
    ).fetchone()
    top, seeds = (asked.get(word) or frozen.get(word, 1) for word in ("top", "seeds"))
    return int(min(top, completed) * seeds)


def best_trial(record: Record, study: StudyRow) -> tuple[TrialRow, float] | None:
    """The search's best trial at a full budget and its last value; the earlier of equals."""
    order = "DESC" if study.settings["mode"] == "max" else "ASC"
    found = record.query(
        f"SELECT t.trial, r.value FROM trials t JOIN reports r ON {LAST_REPORT} WHERE t.study = ?"
        f" AND stage = 'search' AND state = 'completed' ORDER BY r.value {order}, t.trial LIMIT 1",
        study.study,
    ).fetchone()
    if found is None:
        return None
    return next(record.trials("trial = ?", found["trial"])), found["value"]


def _best(record: Record, study: StudyRow) -> dict[str, Any] | None:
    best = best_trial(record, study)
    if best is None:
        return None
    trial, value = best
    free = study.settings["searched"]
    knobs = {name: knob for name, knob in trial.config.knobs.items() if name in free}
    return {"value": value, "trial": trial.number, "knobs": knobs}


def watched(
    runs: Path, names: Sequence[str], every: float, wait: Callable[[float], None] = time.sleep
) -> Iterator[list[dict[str, Any]]]:
    """The status of the runs, each time it may have changed, until none of them is running.

    A look at a record in which nothing was written since the last one costs one comparison.
    """
    with contextlib.ExitStack() as opened:
        records = [opened.enter_context(Record.open(runs, name, read_only=True)) for name in names]
        seen: list[int] = []
        found: list[dict[str, Any]] = []
        while True:
            versions = [record.query("PRAGMA data_version").fetchone()[0] for record in records]
            if versions != seen:
                seen, found = versions, [status_of(record) for record in records]
            found = [
                status | _clock(record) for status, record in zip(found, records, strict=True)
            ]
            yield found
            if not any(status["running"] for status in found):
                return
            wait(every)


def status_text(status: dict[str, Any]) -> str:
    """The status for people, and what to type next."""
    name = status["run"]
    lines = [
        f"{name}: {'running' if status['running'] else 'not running'}, "
        f"{clock(status['seconds'])} so far, {status['folder']}"
    ]
    if status["budget_kind"]:
        used = sum(study["used"] for study in status["studies"])
        left = status["seconds_left"]
        soon = "time left not known yet" if left is None else f"about {clock(left)} left"
        told = f"  {used:.0f} {unit(status['budget_kind'])} used"
        lines.append(f"{told}, {soon}" if status["running"] else told)
    confirmed = False
    for study in status["studies"]:
        done = sum(n for state, n in study["states"].items() if state not in _OPEN)
        confirmed |= study["repeats"].get("completed", 0) > 0
        cut = {} if status["running"] else {"running": "cut off"}
        states = "  ".join(f"{cut.get(s, s)} {count}" for s, count in study["states"].items())
        lines.append(f"  {study['space']}: {done}/{study['trials']} trials  {states}")
        if study["rungs"]:
            lines.append(f"    judged at rungs: {'  '.join(map(str, study['rungs']))}")
        if best := study["best"]:
            lines.append(
                f"    best {best['value']:.4f}, trial {best['trial']}: {knob_list(best['knobs'])}"
            )
        if audit := study["audit"]:
            lines.append(
                f"    audit: of {audit['audited']} stops {audit['wrong']} were wrong; "
                f"that took {audit['used']:g} of the budget"
            )
        if study["repeats"]:
            repeats = "  ".join(f"{state} {count}" for state, count in study["repeats"].items())
            lines.append(f"    repeats on fresh seeds: {repeats}")
    opened = [opening for opening in status["test_openings"] if opening["used_at"]]
    lines.append(
        f"  test: {len(status['test_openings'])} permits granted, {len(opened)} openings reported"
    )
    for error in status["errors"][:3]:
        lines.append(f"  trial {error['trial']} failed: {error['reason']}")
    if not status["running"]:
        if not status["finished"]:
            lines.append("  stopped before its end; what it did is on record")
            lines.append(f"next: samtune resume {name}")
        elif confirmed:
            lines.append(f"next: samtune leaderboard {name}")
        elif any(study["best"] for study in status["studies"]):
            lines.append(f"next: samtune confirm {name}")
    return "\n".join(lines)
