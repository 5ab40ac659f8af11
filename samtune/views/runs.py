"""A table of all runs of a folder: the view of `samtune ls`."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samtune.record.folder import RunError, names
from samtune.record.record import Record
from samtune.record.runs import notes
from samtune.views.status import status_of
from samtune.views.study import MOST_SPACES


def runs_of(runs: Path) -> list[dict[str, Any]]:
    """Return a row of plain values per run, the newest first.

    Returns:
        Rows with `run`, `folder`, `created_at` (UTC seconds), `spaces`, `state` (running,
        finished, stopped or unreadable), `trials` and `ended`, `repeats`, `metric`, `best` (space,
        trial, value and knobs, or None) and `notes`. Of an unreadable run only the name, the
        folder, the notes and the `reason` are known.
    """
    rows = [_row(runs, name) for name in names(runs)]
    return sorted(rows, key=lambda row: -(row["created_at"] or 0.0))


def _row(runs: Path, name: str) -> dict[str, Any]:
    folder = runs.absolute() / name
    row: dict[str, Any] = {
        **{"run": name, "folder": str(folder), "created_at": None, "spaces": []},
        **{"state": "unreadable", "reason": None, "trials": 0, "ended": 0, "repeats": 0},
        **{"metric": None, "best": None, "notes": notes(folder)},
    }
    try:
        with Record.open(runs, name, read_only=True) as record:
            mode = record.studies()[0].settings["mode"]
            status = status_of(record)
            row["created_at"] = record.meta("created_at")
    except (RunError, LookupError) as error:
        return row | {"reason": str(error)}
    studies = status["studies"]
    sign = 1 if mode == "max" else -1
    bests = [study["best"] | {"space": study["space"]} for study in studies if study["best"]]
    state = "finished" if status["finished"] else "stopped"
    return row | {
        "spaces": [study["space"] for study in studies],
        "state": "running" if status["running"] else state,
        "trials": sum(study["trials"] for study in studies),
        "ended": status["ended"],
        "repeats": sum(study["repeats"].get("completed", 0) for study in studies),
        "metric": studies[0]["metric"],
        "best": max(bests, key=lambda best: sign * best["value"], default=None),
    }


HEADINGS = ("run", "created", "state", "trials", "repeats", "best", "spaces", "notes")


def cells(found: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the cells of the rows of `runs_of`, under `HEADINGS`; times are local."""
    return [
        [
            row["run"],
            _date(row["created_at"]),
            row["state"],
            f"{row['ended']}/{row['trials']}",
            str(row["repeats"]),
            _best(row),
            _spaces(row["spaces"]),
            "; ".join(row["notes"]) or row["reason"] or "",
        ]
        for row in found
    ]


def _spaces(names: Sequence[str]) -> str:
    more = len(names) - MOST_SPACES
    return " ".join(names[:MOST_SPACES]) + (f" and {more} more" if more > 0 else "")


def _date(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _best(row: dict[str, Any]) -> str:
    best = row["best"]
    if best is None:
        return "-"
    return f"{row['metric']} {best['value']:.4f} ({best['space']}:{best['trial']})"
