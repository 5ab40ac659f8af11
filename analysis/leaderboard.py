"""From a run's Parquet files to a leaderboard: one row per space, from fresh-seed repeats only.

A row's test score is the mean over repeats whose split, initialisation and batch order no search
has seen. Its interval is the 95 % Student t interval: bootstrap intervals over so few seeds are
too narrow. `optimism` is by how much the search flattered its winner.

Every run has one metric that its search improves. The statistics of a metric `m` stand in columns
named after it: `best_m`, `median_m`, `default_m`, `m_mean`, and `test_m_mean`, `test_m_sd`,
`test_m_lo`, `test_m_hi` of its counterpart on test. Accuracies always have theirs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from samtune.record import tables

# Rows that differ in one of these answer different questions, so they are ranked apart.
QUESTION = ["dataset", "model", "task", "budget_kind", "budget_max", "metric", "mode"]


def leaderboard(folders: Sequence[Path]) -> pd.DataFrame:
    """Return one row per run and space, the best test score first.

    Ranks count within equal task, budget and metric (`QUESTION`). A row without completed repeats,
    or with a diverged one, has no rank: its mean would be over what survived.

    Args:
        folders: run folders, or other folders that hold a run's tables.

    Returns:
        The columns of `tables.COLUMNS`, and those of each metric that a run searched by.

    Raises:
        TableError: a folder's tables cannot be read.
    """
    rows = []
    for folder in dict.fromkeys(folders):
        trials = searched_by(tables.read(folder / "trials.parquet", "trials").to_pandas())
        repeats = tables.read(folder / "repeats.parquet", "repeats").to_pandas()
        metadata = tables.metadata(folder / "trials.parquet")
        seconds = json.loads(metadata.get("samtune.search_wall_s", "{}"))
        for space, own in trials.groupby("space", sort=False):
            row = _row(own, repeats[repeats["space"] == space])
            rows.append(row | {"search_wall_s": seconds.get(space)})
    fixed = tables.schema("leaderboard").names
    columns = dict.fromkeys([*fixed, *(name for row in rows for name in row)])
    return _ranked(pd.DataFrame(rows, columns=list(columns)))


def on_test(metric: str) -> str:
    """Return a metric's name on the test split: `test_acc` for `val_acc`, `test_f1` for `f1`."""
    return f"test_{metric.removeprefix('val_')}"


def save(
    board: pd.DataFrame, path: Path, folders: Iterable[Path], table: str = "leaderboard"
) -> None:
    """Write a leaderboard, or its pairs, as Parquet with the metadata of the runs in `folders`."""
    found = [tables.metadata(folder / "trials.parquet") for folder in folders]
    metadata = {
        key: ",".join(dict.fromkeys(each[key] for each in found if each.get(key)))
        for key in (
            "samtune.version",
            "samtune.run",
            "samtune.space_sha256",
            "samtune.data_sha256",
        )
    }
    typed = tables.schema(table, floats=map(str, board.columns))
    rows = board.astype(object).where(board.notna(), None).to_dict("records")
    tables.write(path, typed, [{str(k): v for k, v in row.items()} for row in rows], metadata)


def t_interval(values: pd.Series[float]) -> tuple[float | None, float | None]:
    """Return the 95 % Student t interval of the mean; (None, None) for fewer than two values."""
    if len(values) < 2:
        return None, None
    if values.nunique() == 1:
        return float(values.iloc[0]), float(values.iloc[0])
    # Imported here, because the import of scipy takes longer than a leaderboard.
    from scipy.special import stdtrit

    half = (
        float(stdtrit(len(values) - 1, 0.975))
        * float(values.std(skipna=False))
        / math.sqrt(len(values))
    )
    mean = float(values.mean(skipna=False))
    return mean - half, mean + half


def searched_by(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials with a metric and a mode; both were once left to their defaults."""
    return trials.fillna({"metric": "val_acc", "mode": "max"})


def _ranked(board: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with their ranks, in their order."""
    sign = board["mode"].map({"max": 1.0, "min": -1.0})
    scores = {
        "test": [row[f"{row['test_metric']}_mean"] for row in board.to_dict("records")],
        "search": [row[f"best_{row['metric']}"] for row in board.to_dict("records")],
    }
    keys = pd.DataFrame(scores, index=board.index, dtype=float).mul(sign, axis=0)
    ranked = (board["repeats"] > 0) & (board["repeats_diverged"] == 0)
    board["rank"] = (
        keys["test"][ranked]
        .groupby([board.loc[ranked, word] for word in QUESTION])
        .rank(method="first", ascending=False)
        .reindex(board.index)
        .astype("Int16")
    )
    order = board[[*QUESTION, "rank"]].join(keys)
    ascending = [True] * (len(QUESTION) + 1) + [False, False]
    by = [*QUESTION, "rank", "test", "search"]
    index = order.sort_values(by, ascending=ascending, na_position="last").index
    return board.loc[index].reset_index(drop=True)


def _row(trials: pd.DataFrame, repeats: pd.DataFrame) -> dict[str, Any]:
    first = trials.iloc[0]
    metric = str(first["metric"])
    sign = 1 if first["mode"] == "max" else -1
    states = trials["state"].value_counts()
    completed = trials[trials["state"] == "completed"]
    winner = _winner(completed, repeats, metric, first["mode"])
    openings = int(repeats["test_openings"].sum())
    # Repeats of other configurations, by `confirm --top`, measure regret.
    repeats = repeats[
        repeats["source_trial_key"] == (None if winner is None else winner.trial_key)
    ]
    done = repeats[repeats["state"] == "completed"]
    best = None if winner is None else _number(winner.get(metric))
    default = _column(completed[completed["origin"] == "default"], metric)
    mean = _number(_column(done, metric).mean())
    row: dict[str, Any] = {
        **{
            name: first[name]
            for name in (
                *("run", "space", "variant", "base_optimizer", "dataset", "label_noise", "model"),
                *("augment", "task", "budget_kind", "budget_max", "metric", "mode"),
                *("search_alg", "scheduler", "knobs_searched"),
            )
        },
        "test_metric": on_test(metric),
        "tie_margin": _number(first.get("tie_margin")),
        "search_see": trials["see"].sum(),
        "n_knobs": len(json.loads(first["knobs_searched"])),
        "config_json": winner["config_json"] if winner is not None else "{}",
        "config_sha": winner["config_sha"] if winner is not None else "",
        "trials": len(trials),
        **{
            f"trials_{state}": int(states.get(state, 0))
            for state in ("completed", "pruned", "diverged", "error", "cancelled")
        },
        "tuning_gain": _difference(best, _first(default), sign),
        "repeats": len(done),
        "repeats_diverged": int((repeats["state"] == "diverged").sum()),
        "optimism": _difference(best, mean, sign),
        "test_openings": openings,
        "see_per_run": _number(done["see"].mean()),
        "train_s_per_run": _number(done["train_s"].mean()),
        "peak_mem_mb": _number(trials["peak_rss_mb"].max()),
    }
    for name in dict.fromkeys(["val_acc", metric]):
        row |= _of_search(name, winner, trials, completed, done)
    for name in dict.fromkeys(["test_acc", on_test(metric)]):
        row |= _of_test(name, done)
    return row | _of_classifier(done)


def _winner(
    completed: pd.DataFrame, repeats: pd.DataFrame, metric: str, mode: str
) -> pd.Series[Any] | None:
    """Return the trial that was confirmed as the best; unconfirmed, the best by the metric."""
    repeated = repeats.loc[repeats["rank_in_search"] == 0, "source_trial_key"]
    if len(repeated):
        completed = completed[completed["trial_key"] == repeated.iloc[-1]]
    elif metric in completed:
        completed = completed.sort_values(metric, ascending=mode == "min", kind="stable")
    return completed.iloc[0] if len(completed) else None


def _of_search(
    metric: str,
    winner: pd.Series[Any] | None,
    trials: pd.DataFrame,
    completed: pd.DataFrame,
    done: pd.DataFrame,
) -> dict[str, float | None]:
    """Return a metric's statistics on validation."""
    default = completed[completed["origin"] == "default"]
    return {
        f"best_{metric}": None if winner is None else _number(winner.get(metric)),
        f"median_{metric}": _number(_column(trials, metric).median()),
        f"default_{metric}": _number(_column(default, metric).mean()),
        f"{metric}_mean": _number(_column(done, metric).mean()),
    }


def _of_test(metric: str, done: pd.DataFrame) -> dict[str, float | None]:
    """Return a metric's statistics over the completed repeats."""
    values = _column(done, metric)
    lo, hi = t_interval(values)
    return {
        f"{metric}_mean": _number(values.mean()),
        f"{metric}_sd": _number(values.std()),
        f"{metric}_lo": _number(lo),
        f"{metric}_hi": _number(hi),
    }


def _of_classifier(done: pd.DataFrame) -> dict[str, float | None]:
    """Return what only classifiers report; `test_binom_se` is sqrt(p (1 - p) / n)."""
    p, n = _number(done["test_acc"].mean()), _number(done["n_test"].mean())
    return {
        "test_binom_se": math.sqrt(max(0.0, p * (1 - p)) / n) if n and p is not None else None,
        "test_nll_mean": _number(done["test_nll"].mean()),
        "test_ece_mean": _number(done["test_ece"].mean()),
    }


def _column(frame: pd.DataFrame, name: str) -> pd.Series[float]:
    """Return a column, or one of NaN where nobody reported it."""
    found = frame.get(name)
    return pd.Series(math.nan, index=frame.index) if found is None else found.astype(float)


def _first(values: pd.Series[float]) -> float | None:
    return None if values.empty else _number(values.iloc[0])


def _difference(best: float | None, other: float | None, sign: int) -> float | None:
    """Return by how much `best` is better than `other`."""
    return None if best is None or other is None else sign * (best - other)


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
