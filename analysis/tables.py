"""Reads the tables of runs; a table of an older samtune is completed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from samtune.record import tables

# Rows that differ in one of these answer different questions, so they are ranked apart.
QUESTION = ["dataset", "model", "task", "budget_kind", "budget_max", "metric", "mode"]
ROW = ["run", *QUESTION, "space"]
"""The columns that identify a row of the leaderboard: all searches of a space for a question."""

# A table of a large run has more columns than a leaderboard can afford to copy.
_NEEDED = (
    *("run", "study", "space", "search", "variant", "base_optimizer", "dataset", "model"),
    *("label_noise", "augment", "task", "budget_kind", "budget_max", "metric", "mode"),
    *("tie_margin", "search_alg", "scheduler", "knobs_searched", "config_json", "config_sha"),
    *("trial", "trial_key", "state", "feasible", "pareto", "origin", "see"),
    *("peak_rss_mb", "source_trial_key", "rank_in_search", "seed_bundle", "plan", "with_search"),
    *("n_test", "train_s", "knob.lr", "knob.rho", "first_rung_value", "audited"),
)


def read(folder: Path, table: str) -> pd.DataFrame:
    """Return what a leaderboard needs of the table `trials`, `selects` or `repeats` of a run.

    Raises:
        TableError: The table cannot be read.

    """
    path = folder / f"{table}.parquet"
    named = tables.read(path, table, ["metric"]).column("metric").unique().to_pylist()
    metrics = {"val_acc", *filter(None, named)}
    needed = {*_NEEDED, *metrics, *map(on_test, metrics)}
    columns = [
        name
        for name in tables.names(path)
        if name in needed or name.startswith(("sharp_", "test_"))
    ]
    return filled(tables.read(path, table, columns).to_pandas())


def read_selects(folder: Path) -> pd.DataFrame | None:
    """Return the table `selects` of a run; None for a run of a samtune that had none."""
    return read(folder, "selects") if (folder / "selects.parquet").exists() else None


def on_test(metric: str) -> str:
    """Return a metric's name on the test split: `test_acc` for `val_acc`, `test_f1` for `f1`."""
    return f"test_{metric.removeprefix('val_')}"


def filled(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the columns that older tables lack: a metric, its mode and the search."""
    found: dict[str, Any] = {"search": rows.get("search", 0)}
    for name, value in {"metric": "val_acc", "mode": "max"}.items():
        column = rows[name]
        # A column without any text has no type that could hold one.
        found[name] = value if column.isna().all() else column.fillna(value)
    return rows.assign(**found)


def may_win(trials: pd.DataFrame) -> pd.Series[bool]:
    """Return which trials used their full budget and keep the constraints of their search."""
    full = trials["state"] == "completed"
    return full & trials["feasible"].ne(False) if "feasible" in trials else full


def confirmed(repeats: pd.DataFrame) -> pd.DataFrame:
    """Return the repeats of each search's winner, one per seed bundle and in their order.

    The winner of a search is what was confirmed last as its first. Repeats of other
    configurations, by `confirm --top`, measure regret.
    """
    first = repeats[repeats["rank_in_search"] == 0]
    search = [*ROW, "search"]
    won = first.groupby(search, dropna=False)["source_trial_key"].transform("last")
    own = first[first["source_trial_key"] == won]
    return own.drop_duplicates([*search, "seed_bundle"], keep="last").sort_values("seed_bundle")


def read_confirmed(folders: Iterable[Path]) -> pd.DataFrame:
    """Return the repeats of the winners of several runs, also of two copies of a run."""
    found = [confirmed(read(folder, "repeats")) for folder in dict.fromkeys(folders)]
    whole = pd.concat(found, ignore_index=True)
    return whole.drop_duplicates([*ROW, "search", "seed_bundle"], keep="last")


def column(frame: pd.DataFrame, name: str) -> pd.Series[float]:
    """Return a column, or one of NaN where nobody reported it."""
    found = frame.get(name)
    return pd.Series(math.nan, index=frame.index) if found is None else found.astype(float)


def number(value: Any) -> float | None:
    """Return a value as a float, None for one that is missing."""
    return None if value is None or pd.isna(value) else float(value)
