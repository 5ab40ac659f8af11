"""From a run's Parquet files to a leaderboard: one row a space, fresh-seed repeats only.

A row's accuracy is the mean over repeats whose split, initialisation and batch order no search
has seen, with the 95 % Student t interval (bootstrap intervals over so few seeds are too narrow).
`optimism` tells by how much the search flattered its winner.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from samtune.record import tables

# Rows that differ in one of these answer different questions, so they are ranked apart.
QUESTION = ["dataset", "model", "task", "budget_kind", "budget_max"]


def leaderboard(folders: Sequence[Path]) -> pd.DataFrame:
    """One row a run and space, best test accuracy first; columns of `tables.COLUMNS`.

    Ranks count within equal task and budget (`QUESTION`). A row without completed repeats, or with
    a diverged one, has no rank: its mean would be over what survived. Raises TableError for a
    folder whose tables cannot be read.
    """
    rows = []
    for folder in dict.fromkeys(folders):
        trials = tables.read(folder / "trials.parquet", "trials").to_pandas()
        repeats = tables.read(folder / "repeats.parquet", "repeats").to_pandas()
        for space, own in trials.groupby("space", sort=False):
            rows.append(_row(own, repeats[repeats["space"] == space]))
    board = pd.DataFrame(rows, columns=tables.schema("leaderboard").names)
    ranked = (board["repeats"] > 0) & (board["repeats_diverged"] == 0)
    board["rank"] = (
        board[ranked]
        .groupby(QUESTION)["test_acc_mean"]
        .rank(method="first", ascending=False)
        .reindex(board.index)
        .astype("Int16")
    )
    by = [*QUESTION, "rank", "test_acc_mean", "best_val_acc"]
    ascending = [True] * (len(QUESTION) + 1) + [False, False]
    return board.sort_values(by, ascending=ascending, na_position="last").reset_index(drop=True)


def _row(trials: pd.DataFrame, repeats: pd.DataFrame) -> dict[str, Any]:
    first = trials.iloc[0]
    states = trials["state"].value_counts()
    completed = trials[trials["state"] == "completed"]
    # The winner is the configuration that was repeated last as the best, whatever metric chose it.
    repeated = repeats.loc[repeats["rank_in_search"] == 0, "source_trial_key"]
    ordered = completed.sort_values("val_acc", ascending=False, kind="stable")
    if len(repeated):
        ordered = completed[completed["trial_key"] == repeated.iloc[-1]]
    winner = ordered.iloc[0] if len(ordered) else None
    default = completed.loc[completed["origin"] == "default", "val_acc"]
    best = None if winner is None else float(winner["val_acc"])
    openings = int(repeats["test_openings"].sum())
    # Repeats of other configurations, by `confirm --top`, measure regret.
    repeats = repeats[
        repeats["source_trial_key"] == (None if winner is None else winner.trial_key)
    ]
    done = repeats[repeats["state"] == "completed"]
    lo, hi = t_interval(done["test_acc"])
    p, n = done["test_acc"].mean(), done["n_test"].mean()
    return {
        **{
            name: first[name]
            for name in (
                *("run", "space", "variant", "base_optimizer", "dataset", "label_noise", "model"),
                *("augment", "task", "budget_kind", "budget_max"),
                *("search_alg", "scheduler", "knobs_searched"),
            )
        },
        "search_see": trials["see"].sum(),
        "n_knobs": len(json.loads(first["knobs_searched"])),
        "config_json": winner["config_json"] if winner is not None else "{}",
        "config_sha": winner["config_sha"] if winner is not None else "",
        "studies": 1,
        "trials": len(trials),
        **{
            f"trials_{state}": int(states.get(state, 0))
            for state in ("completed", "pruned", "diverged", "error", "cancelled")
        },
        "search_wall_s": (trials["ended_at"].max() - trials["started_at"].min()).total_seconds(),
        "best_val_acc": best,
        "median_val_acc": _number(trials["val_acc"].median()),
        "default_val_acc": _number(default.mean()),
        "tuning_gain": None if best is None or default.empty else best - default.iloc[0],
        "repeats": len(done),
        "repeats_diverged": int((repeats["state"] == "diverged").sum()),
        "test_acc_mean": _number(p),
        "test_acc_sd": _number(done["test_acc"].std()),
        "test_acc_lo": lo,
        "test_acc_hi": hi,
        "test_binom_se": _number(math.sqrt(p * (1 - p) / n)) if len(done) else None,
        "test_nll_mean": _number(done["test_nll"].mean()),
        "test_ece_mean": _number(done["test_ece"].mean()),
        "val_acc_mean": _number(done["val_acc"].mean()),
        "optimism": None if best is None else _number(best - done["val_acc"].mean()),
        "test_openings": openings,
        "see_per_run": _number(done["see"].mean()),
        "train_s_per_run": _number(done["train_s"].mean()),
        "peak_mem_mb": _number(trials["peak_rss_mb"].max()),
    }


def t_interval(values: pd.Series[float]) -> tuple[float | None, float | None]:
    """95 % Student t interval of the mean; (None, None) for fewer than two values."""
    if len(values) < 2:
        return None, None
    if values.nunique() == 1:
        return float(values.iloc[0]), float(values.iloc[0])
    # The quantile alone, and only here: scipy takes longer to import than a leaderboard to make.
    from scipy.special import stdtrit

    half = (
        float(stdtrit(len(values) - 1, 0.975))
        * float(values.std(skipna=False))
        / math.sqrt(len(values))
    )
    mean = float(values.mean(skipna=False))
    return mean - half, mean + half


def save(board: pd.DataFrame, path: Path) -> None:
    """Writes the leaderboard as Parquet."""
    rows = board.astype(object).where(board.notna(), None).to_dict("records")
    tables.write(path, "leaderboard", [{str(k): v for k, v in row.items()} for row in rows])


# Narrow terminals lose columns from the end.
HEADINGS = (
    "#",
    "variant",
    "test acc %",
    "95 % interval",
    "repeats",
    "optimism pp",
    "see/run",
    "val acc %",
    "test openings",
    "trials",
    "search see",
    "s/run",
)


def cells(board: pd.DataFrame) -> list[list[str]]:
    """The rows of the table for people, under HEADINGS."""
    runs = board["run"].nunique() > 1
    return [
        [
            "-" if pd.isna(row["rank"]) else str(row["rank"]),
            f"{row['run']}/{row['space']}" if runs else str(row["space"]),
            _percent(row["test_acc_mean"]) if row["repeats"] else "not confirmed",
            _interval(row["test_acc_lo"], row["test_acc_hi"]),
            str(row["repeats"])
            + (f" ({row['repeats_diverged']} diverged)" if row["repeats_diverged"] else ""),
            _percent(row["optimism"], signed=True),
            _short(row["see_per_run"]),
            _percent(row["val_acc_mean"]),
            str(row["test_openings"]),
            f"{row['trials']} ({row['trials_completed']} full)",
            f"{row['search_see']:.0f}",
            _short(row["train_s_per_run"]),
        ]
        for row in board.to_dict("records")
    ]


def questions(board: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows that may be compared with each other, under what they answer."""
    named = {"dataset", "model", "label_noise"}
    words = [set(json.loads(task).items()) for task in board["task"]]
    # What all rows share besides is left to their spaces.
    shared = set.intersection(*words) if words else set()
    return [
        (
            ", ".join(
                [
                    row["dataset"],
                    row["model"],
                    f"label noise {row['label_noise']:g}",
                    *(
                        f"{word} {value}"
                        for word, value in sorted(set(json.loads(row["task"]).items()) - shared)
                        if word not in named
                    ),
                    f"{row['budget_max']:g} {row['budget_kind']}",
                ]
            ),
            rows,
        )
        for _, rows in board.groupby(QUESTION, sort=False)
        for row in rows.iloc[:1].to_dict("records")
    ]


def winners(board: pd.DataFrame) -> list[str]:
    """The searched knobs of each row's winner: `lr=0.05 rho=0.5`."""
    return [
        " ".join(
            f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in json.loads(row["config_json"]).get("knobs", {}).items()
            if name in json.loads(row["knobs_searched"])
        )
        for row in board.to_dict("records")
    ]


def markdown(board: pd.DataFrame) -> str:
    """The table in Markdown, one for each question."""
    parts = []
    for question, rows in questions(board):
        body = [[*row, knobs] for row, knobs in zip(cells(rows), winners(rows), strict=True)]
        headings = [*HEADINGS, "winning knobs"]
        lines = [headings, ["---"] * len(headings), *body]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        parts.append(f"{question}\n\n{table}")
    return "\n\n".join(parts)


def csv(board: pd.DataFrame) -> str:
    """All columns as CSV."""
    return board.to_csv(index=False)


def records(board: pd.DataFrame) -> list[dict[str, Any]]:
    """All columns as plain values, null for what is missing."""
    return list(json.loads(board.to_json(orient="records")))


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _percent(value: Any, *, signed: bool = False) -> str:
    if pd.isna(value):
        return "-"
    return f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}"


def _interval(lo: Any, hi: Any) -> str:
    # Few repeats may put an end beyond what an accuracy can be.
    return "-" if pd.isna(lo) else f"{_percent(max(lo, 0.0))} to {_percent(min(hi, 1.0))}"


def _short(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:.3g}"
