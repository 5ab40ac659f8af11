"""How far a run is, from its record alone: no torch, no Ray, fit for another terminal."""

from __future__ import annotations

from collections import Counter
from typing import Any

from samtune.live import clock, knob_list
from samtune.record import Record, now


def status_of(record: Record) -> dict[str, Any]:
    """Trials by state, best so far, rungs and budget of each study; openings of test; errors."""
    trials = list(record.trials())
    last = {report.trial: report for report in record.reports()}
    judged = Counter(
        (report.trial, report.rung or 0) for report in record.reports("rung IS NOT NULL")
    )
    study_of = {trial.trial: trial.study for trial in trials}
    studies = []
    for study in record.studies():
        own = [trial for trial in trials if trial.study == study.study]
        search = [trial for trial in own if trial.stage == "search"]
        sign = 1 if study.settings["mode"] == "max" else -1
        best = max(
            (trial for trial in search if trial.state == "completed"),
            key=lambda trial: sign * last[trial.trial].value,
            default=None,
        )
        rungs = Counter(rung for trial, rung in judged if study_of[trial] == study.study)
        studies.append(
            {
                "space": study.name,
                "variant": study.variant,
                "trials": study.settings["trials"],
                "states": dict(Counter(trial.state for trial in search)),
                "repeats": dict(Counter(t.state for t in own if t.stage == "confirm")),
                "rungs": [rungs[rung] for rung in sorted(rungs)],
                "used": sum(last[trial.trial].used for trial in own if trial.trial in last),
                "best": best
                and {
                    "value": last[best.trial].value,
                    "trial": best.number,
                    "knobs": {
                        name: value
                        for name, value in best.config.knobs.items()
                        if name in study.settings["searched"]
                    },
                },
            }
        )
    ends = [trial.ended_at for trial in trials if trial.ended_at]
    running = record.is_locked()
    began = record.meta("created_at")
    return {
        "run": record.name,
        "folder": str(record.folder),
        "running": running,
        # The clock may have been set back since.
        "seconds": max(0.0, (now() if running or not ends else max(ends)) - began),
        "studies": studies,
        "test_openings": [dict(opening) for opening in record.openings()],
        "errors": [
            {"trial": trial.trial, "reason": trial.reason}
            for trial in trials
            if trial.state == "error"
        ],
    }


def status_text(status: dict[str, Any]) -> str:
    """The status for people, and what to type next."""
    name = status["run"]
    lines = [
        f"{name}: {'running' if status['running'] else 'not running'}, "
        f"{clock(status['seconds'])} so far, {status['folder']}"
    ]
    unfinished = confirmed = False
    for study in status["studies"]:
        done = sum(n for state, n in study["states"].items() if state not in _OPEN)
        unfinished |= done < study["trials"]
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
        if unfinished:
            lines.append("  stopped before its end; what it did is on record")
        if confirmed:
            lines.append(f"next: samtune leaderboard {name}")
        elif any(study["best"] for study in status["studies"]):
            lines.append(f"next: samtune confirm {name}")
    return "\n".join(lines)


_OPEN = {"running", "paused", "cancelled"}
