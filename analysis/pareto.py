"""The Pareto front of searches with several aims, as rows and as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.board import questions, score
from analysis.tables import filled
from samtune.messages import knob_list
from samtune.record import tables


def aims_of(trials: pd.DataFrame) -> dict[str, str]:
    """Return the metrics of the searches, each `max` or `min`; empty where they have one.

    Args:
        trials: The trials of one question; where their searches differ, the first with several
            metrics counts.
    """
    said: Iterable[str] = trials["aims"].dropna().unique() if "aims" in trials else ()
    each = (dict(json.loads(text)) for text in said)
    return next((a for a in each if len(a) > 1 and set(a) <= set(trials)), {})


def front(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials on the fronts of their searches, the best by the first metric first."""
    aims = aims_of(trials)
    if not aims:
        return trials.iloc[:0]
    first, mode = next(iter(aims.items()))
    known = trials[trials["pareto"].eq(True) & trials["aims"].eq(json.dumps(aims))]
    known = known.sort_values(first, ascending=mode == "min", kind="stable")
    return known.sort_values(["run", "space"], kind="stable")


def numbers(trials: pd.DataFrame) -> str | None:
    """Return the trials on the fronts of a row's searches: `3 12`, of several `0:3 1:12`.

    None where the searches have one metric.
    """
    if "pareto" not in trials or trials["pareto"].isna().all():
        return None
    several = trials["search"].nunique() > 1
    found = trials[trials["pareto"].eq(True)].sort_values(["search", "trial"])
    return " ".join(
        f"{search}:{trial}" if several else str(trial)
        for search, trial in zip(found["search"], found["trial"], strict=True)
    )


def records(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Return the trials on the fronts of all runs, each with its metrics and searched knobs.

    Raises:
        TableError: A table cannot be read.
    """
    found = []
    for trials in _trials(folders):
        aims = aims_of(trials)
        for trial in front(trials).to_dict("records"):
            knobs = json.loads(trial["config_json"])["knobs"]
            searched = json.loads(trial["knobs_searched"])
            found.append(
                {
                    **{name: trial[name] for name in ("run", "task", "space", "search", "trial")},
                    "metrics": {name: trial[name] for name in aims},
                    "knobs": {name: knobs[name] for name in searched if name in knobs},
                }
            )
    return found


def headings(trials: pd.DataFrame) -> list[str]:
    """Return the headings of the table of a front."""
    aims = [f"{name} ({mode})" for name, mode in aims_of(trials).items()]
    return ["variant", "trial", *aims, "knobs"]


def cells(trials: pd.DataFrame) -> list[list[str]]:
    """Return the cells of the table of a front, under `headings`.

    A trial of a row with several searches has the number of its search before its own: `1:12`.

    Args:
        trials: The trials of one question.
    """
    several = trials["run"].nunique() > 1
    searches = trials.groupby(["run", "space"])["search"].nunique()
    return [
        [
            f"{row['run']}/{row['space']}" if several else str(row["space"]),
            f"{row['search']}:{row['trial']}"
            if searches[row["run"], row["space"]] > 1
            else str(row["trial"]),
            *(score(row[name], name) for name in aims_of(trials)),
            knobs(row),
        ]
        for row in front(trials).to_dict("records")
    ]


def knobs(trial: Any) -> str:
    """Return the searched knobs of a trial: `lr=0.05 rho=0.5`."""
    found = ((name, trial.get(f"knob.{name}")) for name in json.loads(trial["knobs_searched"]))
    return knob_list({name: value for name, value in found if not pd.isna(value)})


def read_fronts(folders: Sequence[Path]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return the tables of the fronts, one per run and question: a name, headings and cells.

    The name says the run and the question where there are several, else it is empty. A run whose
    searches have one metric has no table.

    Raises:
        TableError: A table cannot be read.
    """
    found = []
    for trials in _trials(folders):
        asked = questions(trials)
        for question, own in asked:
            names = [str(own["run"].iloc[0])] if len(folders) > 1 else []
            names += [question] if len(asked) > 1 else []
            if len(front(own)):
                found.append((", ".join(names), headings(own), cells(own)))
    return found


def _trials(folders: Iterable[Path]) -> Iterator[pd.DataFrame]:
    for folder in folders:
        yield filled(tables.read(folder / "trials.parquet", "trials").to_pandas())
