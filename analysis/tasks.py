"""A study's rows over its tasks: the mean of their differences to the baseline."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from analysis import across_tasks, descriptive, statistics
from analysis.board import is_accuracy, score

# Rows of one study are averaged over the questions that differ in their task alone.
_STUDY = ["run", "budget_kind", "budget_max", "metric", "mode", "test_metric", "baseline"]
COLUMNS = (
    *(*_STUDY, "space", "tasks", "diff_mean", "diff_lo", "diff_hi", "friedman_p"),
    *across_tasks.COLUMNS,
)


def over_tasks(board: pd.DataFrame, folders: Iterable[Path] = ()) -> pd.DataFrame:
    """Return the mean difference to the baseline of each row that has several tasks.

    Each task has equal weight. The interval is Satterthwaite's at 95 % for one row, without a
    correction for the number of rows; it speaks of these tasks, not of others. `friedman_p` tests
    whether any rows of the study differ in rank, from five tasks and three rows that all have on.

    Without an interval stand beside it: `error_reduction_iqm`, the share of the baseline's errors
    that is saved, as the interquartile mean over tasks and seeds; `profile_area`, the area from 0
    to 1 under the performance profile (share of tasks solved within tau times the least see, tau
    to 4; solved is as good on validation as the baseline's median repeat at its end);
    `transfer_regret`, what is lost on the other tasks by the configuration that is the best on
    one, among the `transfer_configs` configurations that all tasks have in common.

    Args:
        board: A judged leaderboard.
        folders: The folders of its runs, for what the board does not hold.

    Returns:
        The columns `COLUMNS`, a row per run and space; empty where no row has several tasks.

    """
    found = []
    of = across_tasks.Tables(folders)
    for study, rows in board.groupby(_STUDY, sort=False):
        friedman = _friedman(rows)
        compared = rows[rows["diff_se"].notna()]
        several = compared["space"].duplicated().any() and of.folders
        beside = across_tasks.beside(rows, of) if several else {}
        for space, own in compared.groupby("space", sort=False):
            if len(own) < 2:
                continue
            columns = (own[name].tolist() for name in ("diff_mean", "diff_se", "n"))
            mean, low, high, _ = statistics.over_task_means(*columns)
            figures = (space, len(own), mean, low, high, friedman)
            named = dict(zip(COLUMNS, (*study, *figures), strict=False))
            found.append(named | beside.get(str(space), {}))
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
    """Return sentences about each study of `over_tasks`."""
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
        saved = rows.dropna(subset=["error_reduction_iqm"])
        if len(saved):
            each = ", ".join(
                f"{space} {100 * share:.0f} %"
                for space, share in zip(saved["space"], saved["error_reduction_iqm"], strict=True)
            )
            found.append(
                f"Share of the errors of {first['baseline']} that is saved, as the interquartile "
                f"mean over tasks and seeds: {each}."
            )
    return found
