"""A board in words: who leads, whom it cannot be told from, and what would decide it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.board import is_accuracy
from analysis.verdicts import Key, key


def summary(board: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Return a summary: the leader, the undecided rows, and the seeds that would decide them.

    Args:
        board: Judged rows of one question.
        pairs: The pairs of the board; those of other questions are left out.

    """
    shown = set(map(key, board.to_dict("records")))
    ranked = board[board["rank"].notna()].sort_values("rank")
    if ranked.empty:
        return "No configuration is confirmed, so there is no verdict."
    accuracy = is_accuracy(str(board["metric"].iloc[0]))
    several = board["run"].nunique() > 1

    def label(row: Key) -> str:
        return "/".join(row) if several else row[1]

    first = key(ranked.iloc[0].to_dict())
    if len(ranked) == 1:
        return f"{label(first)} is the only confirmed row, so there is nothing to compare."
    groups: dict[str, list[str]] = {"better": [], "tied": [], "underpowered": []}
    more: list[float] = []
    for row in pairs.to_dict("records"):
        a, b = (row["run_a"], row["space_a"]), (row["run_b"], row["space_b"])
        if first in (a, b) and {a, b} <= shown:
            other = label(b if a == first else a)
            word = "better" if row["verdict"] in {"better", "worse"} else row["verdict"]
            groups[word].append(other)
            if word == "underpowered" and not pd.isna(row["seeds_needed"]):
                more.append(row["seeds_needed"] - row["n"])
    parts = [f"{label(first)} leads."]
    if groups["better"]:
        parts.append(f"It is better than {_listed(groups['better'])}.")
    if groups["tied"]:
        parts.append(f"It is tied with {_listed(groups['tied'])}.")
    if groups["underpowered"]:
        needed = f"; about {max(1, min(more)):.0f} more seeds would tell the first" if more else ""
        parts.append(f"It cannot be told from {_listed(groups['underpowered'])}{needed}.")
    margins = [*board["margin"].dropna(), *pairs["margin"].dropna()]
    if margins:
        below = f"{100 * margins[0]:.2f} points" if accuracy else f"{margins[0]:.3g}"
        rule = "2 % of the baseline's value"
        if accuracy:
            rule = "2 % of the baseline's error, or one standard error of the test split if larger"
        if board["tie_margin"].notna().any():
            rule = "as the space says"
        parts.append(f"Differences below {below} count as tied ({rule}).")
    parts.append("Each verdict is about one configuration per row: one search each.")
    return " ".join(parts)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
