"""A study's rows over its tasks: the mean of their differences to the baseline."""

from __future__ import annotations

import pandas as pd

from analysis import descriptive, statistics
from analysis.board import is_accuracy, score

# Rows of one study are averaged over the questions that differ in their task alone.
_STUDY = ["run", "budget_kind", "budget_max", "metric", "mode", "test_metric", "baseline"]
COLUMNS = (*_STUDY, "space", "tasks", "diff_mean", "diff_lo", "diff_hi", "friedman_p")


def over_tasks(board: pd.DataFrame) -> pd.DataFrame:
    """Return the mean difference to the baseline of each row that has several tasks.

    Each task has equal weight. The interval is Satterthwaite's at 95 % for one row, without a
    correction for the number of rows; it speaks of these tasks, not of others. `friedman_p` tests
    whether any rows of the study differ in rank, from five tasks and three rows that all have on.

    Args:
        board: A judged leaderboard.

    Returns:
        The columns `COLUMNS`, a row per run and space; empty where no row has several tasks.

    """
    found = []
    for study, rows in board.groupby(_STUDY, sort=False):
        friedman = _friedman(rows)
        compared = rows[rows["diff_se"].notna()]
        for space, own in compared.groupby("space", sort=False):
            if len(own) < 2:
                continue
            columns = (own[name].tolist() for name in ("diff_mean", "diff_se", "n"))
            mean, low, high, _ = statistics.over_task_means(*columns)
            figures = (space, len(own), mean, low, high, friedman)
            found.append(dict(zip(COLUMNS, (*study, *figures), strict=True)))
    return pd.DataFrame(found, columns=list(COLUMNS))


def _friedman(rows: pd.DataFrame) -> float | None:
    """Return Friedman's p over the tasks where every row of a study is ranked."""
    test, sign = rows["test_metric"].iloc[0], 1 if rows["mode"].iloc[0] == "max" else -1
    ranked = rows[rows["rank"].notna()]
    scores = ranked.pivot(index="task", columns="space", values=f"{test}_mean").dropna()
    if len(scores) < descriptive.FEWEST_TASKS or scores.shape[1] < 3:
        return None
    return descriptive.friedman(
        {str(name): (sign * own).tolist() for name, own in scores.items()}
    ).p


def sentences(tasks: pd.DataFrame) -> list[str]:
    """Return a sentence for each study of `over_tasks`."""
    found = []
    for _, rows in tasks.groupby(_STUDY, sort=False):
        first = rows.iloc[0]
        metric = first["metric"]
        parts = [
            f"{row['space']} {score(row['diff_mean'], metric, signed=True)} "
            f"({score(row['diff_lo'], metric, signed=True)} to "
            f"{score(row['diff_hi'], metric, signed=True)})"
            for row in rows.sort_values("diff_mean", ascending=False).to_dict("records")
        ]
        unit = ", in points" if is_accuracy(str(metric)) else ""
        counts = "/".join(map(str, sorted(set(rows["tasks"]))))
        found.append(
            f"Mean difference to {first['baseline']} over {counts} tasks{unit}, with its 95 % "
            f"interval: {', '.join(parts)}. It speaks of these tasks alone."
        )
    return found
