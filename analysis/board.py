"""A leaderboard as text: its questions, headings, cells and winners."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from analysis.tables import QUESTION
from samtune.messages import knob_list, unit

# From here on the number only says that the difference seen is next to none.
_COUNTED = 10_000
_ONE = {"seeds": "seed", "searches": "search"}


def questions(board: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows that may be compared with each other, under a heading for each question.

    A heading names what is known: data set, model, label noise, the words of the task in which
    the questions differ, the budget and, where it is not the accuracy, the metric.
    """
    words = [set(json.loads(task).items()) for task in board["task"]]
    # A word that all rows share is left to their spaces.
    shared = set.intersection(*words) if words else set()
    return [
        (_question(rows.iloc[0], shared), rows) for _, rows in board.groupby(QUESTION, sort=False)
    ]


def _question(row: pd.Series[Any], shared: set[tuple[str, Any]]) -> str:
    named = {"dataset", "model", "label_noise"}
    own = sorted(set(json.loads(row["task"]).items()) - shared, key=str)
    parts = [row["dataset"], row["model"]]
    if not pd.isna(row["label_noise"]):
        parts.append(f"label noise {row['label_noise']:g}")
    parts += [f"{word} {value}" for word, value in own if word not in named]
    parts.append(f"{row['budget_max']:g} {unit(row['budget_kind'])} per trial")
    if row["metric"] != "val_acc":
        better = "higher" if row["mode"] == "max" else "lower"
        parts.append(f"by {row['metric']}, {better} is better")
    return ", ".join(part for part in parts if part)


def efforts(board: pd.DataFrame) -> str:
    """Return a sentence if the searches were not equally long; empty if they were.

    Args:
        board: rows of one question.
    """
    # The row of a study that has the defaults of a space is not searched.
    default = board["space"].str.endswith("-default") & (board["trials"] == board["searches"])
    board = board[~default]
    if board["trials"].nunique() <= 1:
        return ""
    several = board["run"].nunique() > 1
    counts = [
        f"{f'{run}/{space}' if several else space} {trials}"
        for run, space, trials in board[["run", "space", "trials"]].itertuples(index=False)
    ]
    return f"The search efforts are not equal; trials: {', '.join(counts)}."


def by_budget(board: pd.DataFrame) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return a table for each task: its title, headings and cells, a column for each budget.

    A cell has the mean on test, its interval and the verdict within its own budget.
    """
    found = []
    task = [word for word in QUESTION if not word.startswith("budget")]
    for _, rows in board.groupby(task, sort=False):
        budgets = sorted(set(zip(rows["budget_kind"], rows["budget_max"], strict=True)))
        names = list(dict.fromkeys(zip(rows["run"], rows["space"], strict=True)))
        several = rows["run"].nunique() > 1
        by = {
            (row["run"], row["space"], row["budget_kind"], row["budget_max"]): _in_short(row)
            for row in rows.to_dict("records")
        }
        title, _, _ = questions(rows)[0][0].rpartition(" per trial")
        title = ", ".join(title.split(", ")[:-1])
        cells = [
            ["/".join(name) if several else name[1], *(by.get((*name, *b), "-") for b in budgets)]
            for name in names
        ]
        heads = [f"{most:g} {unit(kind)} per trial" for kind, most in budgets]
        found.append((title, ["variant", *heads], cells))
    return found


def _in_short(row: dict[Any, Any]) -> str:
    mean, low, high = (
        score(row[f"{row['test_metric']}_{end}"], row["metric"]) for end in ("mean", "lo", "hi")
    )
    if not row["repeats"]:
        return "not confirmed"
    interval = "" if low == "-" else f" ({low} to {high})"
    word = verdict(row)
    return f"{mean}{interval}" + ("" if word == "-" else f" {word}")


def headings(board: pd.DataFrame) -> list[str]:
    """Return the headings of the columns; a narrow terminal loses columns from the end.

    Args:
        board: rows of one question.
    """
    first = board.iloc[0]
    percent = " %" if is_accuracy(first["metric"]) else ""
    test, val = (first[name].replace("_", " ") for name in ("test_metric", "metric"))
    baselines = board["baseline"].dropna()
    judged = len(baselines) > 0
    return [
        *("#", "variant", f"{test}{percent}"),
        *((f"against {baselines.iloc[0]}", "verdict", "ranks") if judged else ()),
        "95 % interval",
        *(("Holm p", "plan") if judged else ()),
        *(("searches",) if _several(board) else ()),
        "repeats",
        *(f"optimism{' pp' if percent else ''}", "see/run", f"{val}{percent}"),
        *("test openings", "trials", "search see", "s/run"),
    ]


def cells(board: pd.DataFrame, *, short: bool = False) -> list[list[str]]:
    """Return the cells of the rows of one question, under `headings`.

    Args:
        board: Rows of one question.
        short: Whether a verdict is its word alone.

    """
    runs, judged = board["run"].nunique() > 1, board["baseline"].notna().any()
    found = []
    for row in board.to_dict("records"):
        metric, test = row["metric"], row["test_metric"]
        diverged = f" ({row['repeats_diverged']} diverged)" if row["repeats_diverged"] else ""
        interval = [score(row[f"{test}_{end}"], metric) for end in ("lo", "hi")]
        found.append(
            [
                "-" if pd.isna(row["rank"]) else str(row["rank"]),
                f"{row['run']}/{row['space']}" if runs else str(row["space"]),
                score(row[f"{test}_mean"], metric) if row["repeats"] else "not confirmed",
                *((_difference(row), verdict(row, short=short), ranks(row)) if judged else ()),
                "-" if "-" in interval else " to ".join(interval),
                *((p_holm(row), _text(row["plan"])) if judged else ()),
                *((str(row["searches"]),) if _several(board) else ()),
                f"{row['repeats']}{diverged}",
                score(row["optimism"], metric, signed=True),
                _short(row["see_per_run"]),
                score(row[f"{metric}_mean"], metric),
                str(row["test_openings"]),
                f"{row['trials']} ({row['trials_completed']} full)",
                f"{row['search_see']:.0f}",
                _short(row["train_s_per_run"]),
            ]
        )
    return found


def _several(board: pd.DataFrame) -> bool:
    """Return whether a row has more than one search."""
    return int(board["searches"].max()) > 1


def _difference(row: dict[Any, Any]) -> str:
    lead, low, high = (
        score(row[f"diff_{end}"], row["metric"], signed=True) for end in ("mean", "lo", "hi")
    )
    return "-" if lead == "-" else f"{lead} ({low} to {high})"


def verdict(row: dict[Any, Any], *, short: bool = False) -> str:
    """Return a row's verdict as the board shows it.

    `underpowered` names the seeds or searches that the lead seen would need. Other words say that
    they are about the configuration, where fewer than three searches stand behind the row.

    Args:
        row: The row.
        short: Whether to return the word alone.

    """
    word = _text(row["verdict"])
    if word == "underpowered" and not short:
        for many, has in (("searches", "searches"), ("seeds", "n")):
            if not pd.isna(needed := row[f"{many}_needed"]):
                return f"underpowered ({more(needed - row[has], many)})"
    about = row["verdict_about"]
    if word in {"better", "worse", "tied"} and about == "configuration" and not short:
        return f"{word} (this configuration)"
    return word


def ranks(row: dict[Any, Any]) -> str:
    """Return the ranks of a row that are not excluded: `1-3`."""
    return "-" if pd.isna(row["rank_lo"]) else f"{row['rank_lo']:.0f}-{row['rank_hi']:.0f}"


def p_holm(row: dict[Any, Any]) -> str:
    """Return Holm's p of a row."""
    value = row["p_holm"]
    if pd.isna(value):
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def more(count: float, many: str) -> str:
    """Return how many more `seeds` or `searches` a decision takes, in words."""
    if count > _COUNTED:
        return f"more than {_COUNTED:,} more {many}"
    number = max(1, round(count))
    return f"about {number:,} more {_ONE[many] if number == 1 else many}"


def winners(board: pd.DataFrame) -> list[str]:
    """Return the searched knobs of each row's winner: `lr=0.05 rho=0.5`."""
    found = []
    for row in board.to_dict("records"):
        searched = set(json.loads(row["knobs_searched"]))
        knobs = json.loads(row["config_json"]).get("knobs", {})
        found.append(knob_list({name: knobs[name] for name in knobs if name in searched}))
    return found


def csv(board: pd.DataFrame) -> str:
    """Return all columns as CSV."""
    return board.to_csv(index=False)


def records(board: pd.DataFrame) -> list[dict[str, Any]]:
    """Return all columns as values that JSON can hold, None for what is missing."""
    return list(json.loads(board.to_json(orient="records")))


def is_accuracy(metric: str) -> bool:
    """Return True for a metric that is a share of 1 and shown in percent."""
    plain = metric.removesuffix("_averaged").removesuffix("_sampled")
    return plain.split("_")[-1] in {"acc", "accuracy"}


def score(value: Any, metric: str, *, signed: bool = False) -> str:
    """Return a value of a metric as people read it: an accuracy in percent, others as they are."""
    if value is None or pd.isna(value):
        return "-"
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.2f}" if is_accuracy(metric) else f"{value:{sign}.4g}"


def _text(value: Any) -> str:
    return "-" if pd.isna(value) else str(value)


def _short(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:.3g}"
