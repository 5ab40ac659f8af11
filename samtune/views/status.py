"""The progress of a run, read from its record alone, without torch and Ray."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from samtune.messages import clock, knob_list, unit
from samtune.record.ranking import best
from samtune.record.reader import Reader
from samtune.record.record import Record, now
from samtune.record.rows import Stage, StudyRow
from samtune.space import strict_yaml
from samtune.space.aims import limits_text, metrics_text
from samtune.space.schema import SelectSettings
from samtune.views.audit import audit_used, wrong_stops
from samtune.views.study import MOST_SPACES, status_lines

# A resume goes on with a trial in one of these states.
_OPEN = {"running", "paused", "cancelled"}


def status_of(record: Reader) -> dict[str, Any]:
    """Return the progress of a run as plain values for JSON.

    Returns:
        Trials by state, best so far, rungs and used budget of each study; whether the run is
        running and finished; the seconds worked and left; permits to open test; failed trials.
    """
    counts, rungs, used = record.counts(), record.judged_at_rungs(), record.used()
    studies, worked = record.studies(), _clock(record)
    return {
        "run": record.name,
        "folder": str(record.folder),
        **worked,
        "seconds_left": _seconds_left(record, studies) if worked["running"] else None,
        "next_look": _next_look(record),
        "finished": _is_finished(record, studies),
        "ended": record.ended("search"),
        "budget_kind": _budget_kind(studies),
        "studies": [
            {
                "space": study.name,
                "search": study.settings.get("search", 0),
                "variant": study.variant,
                "metric": _frozen(study, "search").get("metric", "val_acc"),
                "metrics": dict(study.aims.metrics),
                "constraints": dict(study.aims.limits),
                "trials": _searched(record, study),
                "ended_early": (record.meta("ends") or {}).get(str(study.study)),
                "states": counts.get((study.study, "search"), {}),
                "selects": counts.get((study.study, "select"), {}),
                "repeats": counts.get((study.study, "confirm"), {}),
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
                "trial": f"{studies[trial.study].name}:{label(trial.stage, trial.number)}",
                "reason": trial.reason,
            }
            for trial in record.trials(states={"error"})
        ],
    }


def label(stage: Stage, number: int) -> str:
    """Return a trial's name within its space: 5, s5 for a select run, r5 for a repeat."""
    return f"{ {'search': '', 'select': 's', 'confirm': 'r'}[stage] }{number}"


def _frozen(study: StudyRow, section: str) -> dict[str, Any]:
    """Return a section of the space as the run froze it."""
    plain = strict_yaml.load(study.space.encode(), study.name).plain()
    return dict(plain.get(section, {}))


def _budget_kind(studies: Sequence[StudyRow]) -> str:
    """Return the kind of budget, which all spaces of a run share."""
    kinds = (_frozen(study, "budget").get("kind") for study in studies)
    return str(next(kinds, None) or "compute")


def _best(record: Reader, study: StudyRow) -> dict[str, Any] | None:
    found = best(record, study)
    if found is None:
        return None
    trial, value = found
    free = study.settings["searched"]
    knobs = {name: knob for name, knob in trial.config.knobs.items() if name in free}
    return {"value": value, "trial": trial.number, "knobs": knobs}


def _audit(record: Reader, study: StudyRow) -> dict[str, float] | None:
    """Return the result of the audit of stops; None if the rungs audit none."""
    if "audit" not in study.settings["scheduler"]:
        return None
    audited, wrong = wrong_stops(record, study.study)
    return {"audited": audited, "wrong": wrong, "used": audit_used(record, study.study)}


def _clock(record: Reader) -> dict[str, Any]:
    """Return whether the run is running, and for how many seconds it has worked."""
    running = record.is_locked()
    worked = record.seconds_worked(until=now() if running else None)
    return {"running": running, "seconds": worked}


def _is_finished(record: Reader, studies: Sequence[StudyRow]) -> bool:
    """Return True if the search, and the confirmation if requested, have ended."""
    raced = record.meta("raced") or {}
    trials = (_searched(record, study) for study in studies if str(study.study) not in raced)
    if record.ended("search") < sum(trials):
        return False
    if not (record.meta("asked") or {}).get("confirm", True):
        return True
    last = record.last_event({"confirm started", "confirm stopped", "confirm ended"})
    if last is not None:
        return bool(last["kind"] == "confirm ended")
    # Without a winner there is nothing to confirm.
    return all(best(record, study) is None for study in studies)


def _seconds_left(record: Reader, studies: Sequence[StudyRow]) -> float | None:
    """Return the seconds left of the running stage, by its pace since it was started or resumed.

    None between stages, and before a trial has ended.
    """
    stages = get_args(Stage)
    begun = record.last_event(
        {f"{stage} {how}" for stage in stages for how in ("started", "ended")}
    )
    if begun is None or begun["kind"].endswith("ended"):
        return None
    stage = next(stage for stage in stages if begun["kind"].startswith(stage))
    total = sum(_planned(record, study, stage) for study in studies)
    done = record.ended(stage, since=begun["at"])
    left = max(0, total - record.ended(stage))
    # The clock may have been set back since.
    return max(0.0, now() - begun["at"]) / done * left if done else None


def _searched(record: Reader, study: StudyRow) -> int:
    """Return how many trials a search has in all, fewer than planned where it ended early."""
    if str(study.study) in (record.meta("ends") or {}):
        return sum(record.counts().get((study.study, "search"), {}).values())
    return int(study.settings["trials"])


def _planned(record: Reader, study: StudyRow, stage: Stage) -> int:
    """Return how many trials a stage of a study has in all."""
    if stage == "search":
        return _searched(record, study)
    completed = record.counts().get((study.study, "search"), {}).get("completed", 0)
    frozen = _frozen(study, stage)
    if stage == "confirm":
        return _repeats(record, study, completed, frozen)
    select = SelectSettings.model_validate(frozen or {"top": 1})
    if not select.takes_place(study.settings["trials"], completed):
        return 0
    return min(select.top, completed) * select.seeds


def _repeats(record: Reader, study: StudyRow, completed: int, frozen: dict[str, Any]) -> int:
    """Return how many repeats a study has until the next look; all of a plan without looks."""
    asked, going = record.meta("asked") or {}, record.meta("going")
    seeds = asked.get("seeds") or _next_look(record) or frozen.get("seeds", 1)
    if going is not None and study.study not in going and not asked.get("seeds"):
        return sum(record.counts().get((study.study, "confirm"), {}).values())
    return int(min(asked.get("top") or frozen.get("top", 1), completed) * seeds)


def _next_look(record: Reader) -> int | None:
    """Return after how many seeds the next look is; None where the plan has none left."""
    kind, *looks = (record.meta("plan") or "fixed").split()
    if kind == "fixed":
        return None
    (taken,) = record.query("SELECT COUNT(*) FROM events WHERE kind = 'look'").fetchone()
    return int(looks[min(taken, len(looks) - 1)])


def watched(
    runs: Path, names: Sequence[str], every: float, wait: Callable[[float], None] = time.sleep
) -> Iterator[list[dict[str, Any]]]:
    """Yield the status of the runs at intervals, until none of them is running.

    A record in which nothing was written since the last look costs one comparison.

    Args:
        runs: the folder of all runs.
        names: the runs to watch.
        every: seconds between two looks.
        wait: called with `every` between two looks.
    """
    with contextlib.ExitStack() as opened:
        records = [opened.enter_context(Record.open(runs, name, read_only=True)) for name in names]
        seen: list[int] = []
        found: list[dict[str, Any]] = []
        while True:
            versions = [record.version() for record in records]
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
    """Return the status for people, and what to type next."""
    running = status["running"]
    lines = [_head(status), _used(status)]
    if len(status["studies"]) > MOST_SPACES:
        lines += status_lines(status["studies"])
    else:
        lines += [line for study in status["studies"] for line in _study_lines(study, running)]
    opened = [opening for opening in status["test_openings"] if opening["used_at"]]
    lines.append(
        f"  test: {len(status['test_openings'])} permits granted, {len(opened)} openings reported"
    )
    for error in status["errors"][:3]:
        lines.append(f"  trial {error['trial']} failed: {error['reason']}")
    return "\n".join(lines if running else [*lines, *_next(status)])


def _head(status: dict[str, Any]) -> str:
    started = any(study["states"] for study in status["studies"])
    state = "running" if status["running"] else "not running"
    if status["running"] and not started:
        state = "starting, no trial has begun"
    return f"{status['run']}: {state}, worked {clock(status['seconds'])}, {status['folder']}"


def _used(status: dict[str, Any]) -> str:
    used = sum(study["used"] for study in status["studies"])
    line = f"  {used:.0f} {unit(status['budget_kind'])} used"
    if not status["running"]:
        return line
    left = status["seconds_left"]
    if left is None:
        return f"{line}, time left not known yet"
    repeats = any(study["repeats"] for study in status["studies"])
    look = status["next_look"] if repeats else None
    return f"{line}, about {clock(left)} left" + (f" to the look at {look} seeds" if look else "")


def _study_lines(study: dict[str, Any], running: bool) -> list[str]:
    done = sum(n for state, n in study["states"].items() if state not in _OPEN)
    cut = {} if running else {"running": "cut off"}
    states = "  ".join(f"{cut.get(s, s)} {count}" for s, count in study["states"].items())
    lines = [f"  {study['space']}: {done}/{study['trials']} trials  {states}".rstrip()]
    aims = f"aims {metrics_text(study['metrics'])}" if len(study["metrics"]) > 1 else ""
    limits = f"constraints {limits_text(study['constraints'])}" if study["constraints"] else ""
    if aims or limits:
        lines.append(f"    {'; '.join(filter(None, (aims, limits)))}")
    if study["ended_early"]:
        lines.append(f"    the search ended early  {study['ended_early']}")
    if study["rungs"]:
        lines.append(f"    judged at rungs: {'  '.join(map(str, study['rungs']))}")
    if won := study["best"]:
        lines.append(
            f"    best {study['metric']} {won['value']:.4f}, trial {won['trial']}: "
            f"{knob_list(won['knobs'])}"
        )
    elif study["constraints"] and study["states"].get("completed"):
        lines.append("    no trial that was completed keeps the constraints")
    if audit := study["audit"]:
        lines.append(
            f"    audit: {audit['wrong']} of {audit['audited']} stops were wrong; "
            f"the audit used {audit['used']:g} of the budget"
        )
    if study["selects"]:
        runs = "  ".join(f"{state} {count}" for state, count in study["selects"].items())
        lines.append(f"    the best again, to select: {runs}")
    if study["repeats"]:
        repeats = "  ".join(f"{state} {count}" for state, count in study["repeats"].items())
        lines.append(f"    repeats on fresh seeds: {repeats}")
    return lines


def _next(status: dict[str, Any]) -> list[str]:
    """Return what to type next about a run that is not running."""
    name, studies = status["run"], status["studies"]
    if not status["finished"]:
        note = "  stopped before its end; all that it did is on record"
        return [note, f"next: samtune resume {name}"]
    if any(study["repeats"].get("completed") for study in studies):
        return [f"next: samtune leaderboard {name}"]
    if any(study["best"] for study in studies):
        return [f"next: samtune confirm {name}"]
    if any(study["constraints"] for study in studies):
        return [f"next: samtune trials {name}"]
    return []
