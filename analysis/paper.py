"""A leaderboard as a table of a paper: few columns, intervals, and a mark for each verdict."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.board import is_accuracy, p_holm, ranks, score, verdict

MARKS = {"better": "↑", "worse": "↓", "tied": "≈", "underpowered": "○"}


def table(board: pd.DataFrame) -> tuple[list[str], list[list[str]], str]:
    """Return the headings and the cells of one question, and a note about them.

    Args:
        board: Judged rows of one question.

    """
    first = board.iloc[0]
    percent = " %" if is_accuracy(first["metric"]) else ""
    baselines = board["baseline"].dropna()
    headings = ["variant", f"{first['test_metric'].replace('_', ' ')}{percent}"]
    if len(baselines):
        headings += [f"against {baselines.iloc[0]}", "", "Holm p", "ranks"]
    headings.append("searches x repeats" if board["searches"].max() > 1 else "repeats")
    rows = [_row(row, bool(len(baselines))) for row in board.to_dict("records")]
    return headings, rows, _note(board)


def _row(row: dict[Any, Any], judged: bool) -> list[str]:
    metric, test = row["metric"], row["test_metric"]
    cells = [str(row["space"]), "not confirmed"]
    if row["repeats"]:
        cells[1] = _with_interval([row[f"{test}_{end}"] for end in ("mean", "lo", "hi")], metric)
    if judged:
        difference = [row[f"diff_{end}"] for end in ("mean", "lo", "hi")]
        word = verdict(row)
        mark = MARKS.get(word.split(" ")[0], word if word.startswith("diverged") else "")
        cells += [_with_interval(difference, metric, signed=True), mark, p_holm(row), ranks(row)]
    several = row["searches"] > 1
    each = f"{row['repeats'] / row['searches']:g}"
    return [*cells, f"{row['searches']} x {each}" if several else each]


def _with_interval(values: list[Any], metric: str, *, signed: bool = False) -> str:
    mean, low, high = (score(value, metric, signed=signed) for value in values)
    shown = mean if low == "-" else f"{mean} [{low}, {high}]"
    return "" if mean == "-" else shown.replace("-", "\N{MINUS SIGN}")


def _note(board: pd.DataFrame) -> str:
    """Return what the brackets mean, and each mark that the table has."""
    parts = ["Mean on test over fresh seeds; in brackets 95 % intervals"]
    words = set(board["verdict"].dropna())
    marks = [f"{mark} {word}" for word, mark in MARKS.items() if word in words]
    if marks:
        about = {*board.loc[board["verdict"].isin(MARKS), "verdict_about"]}
        what = "the variants" if about == {"variant"} else "one configuration per row"
        if len(about) > 1:
            what = "the variants where three searches stand behind a row, else one configuration"
        parts.append(f"by paired t tests with Holm's correction {', '.join(marks)}, about {what}")
    return f"{'; '.join(parts)}."
