"""From runs' Parquet files to a leaderboard: one row per space and question.

A row's test score comes from fresh-seed repeats only: no search has seen their split,
initialisation and batch order. Intervals are Student's: bootstrap intervals over so few seeds are
too narrow. `optimism` is how much better the winner looked on validation than it is on test.

Every run has one metric that its search improves. The statistics of a metric `m` are in columns
named after it: `best_m`, `median_m`, `default_m`, `m_mean`, and `test_m_mean`, `test_m_sd`,
`test_m_lo`, `test_m_hi` of its counterpart on test. Accuracies always have theirs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from analysis.row import row
from analysis.tables import QUESTION, ROW, confirmed, read, read_selects
from samtune.record import tables


def leaderboard(folders: Sequence[Path], *, by_search: bool = False) -> pd.DataFrame:
    """Return one row per run, question and space, the best test score first.

    A row combines all searches of its space. Ranks count within equal task, budget and metric
    (`QUESTION`). A row without completed repeats, or with a diverged one, has no rank: its mean
    would be over what survived.

    Args:
        folders: run folders, or other folders that hold a run's tables.
        by_search: return a row per search, whose `space` is `NAME search 0`.

    Returns:
        The columns of `columns.COLUMNS`, and those of each metric that a run searched by.

    Raises:
        TableError: a folder's tables cannot be read.
    """
    rows = []
    one = [*ROW, "search"] if by_search else ROW
    for folder in dict.fromkeys(folders):
        trials, repeats = (read(folder, table) for table in ("trials", "repeats"))
        selects = read_selects(folder)
        others = [repeats.iloc[:0] if selects is None else selects, repeats, confirmed(repeats)]
        by_row = [dict(list(each.groupby(one, dropna=False))) for each in others]
        metadata = tables.metadata(folder / "trials.parquet")
        seconds = json.loads(metadata.get("samtune.search_wall_s", "{}"))
        for key, own in trials.groupby(one, sort=False, dropna=False):
            found = [
                each.get(key, whole.iloc[:0]) for each, whole in zip(by_row, others, strict=True)
            ]
            # Older tables name the spaces.
            names = [*map(str, own["study"].unique()), own["space"].iloc[0]]
            known = [seconds[name] for name in names if name in seconds]
            rows.append(row(own, *found) | {"search_wall_s": sum(known) if known else None})
            if by_search:
                rows[-1]["space"] += f" search {own['search'].iloc[0]}"
    fixed = tables.schema("leaderboard").names
    columns = dict.fromkeys([*fixed, *(name for row in rows for name in row)])
    return _ranked(pd.DataFrame(rows, columns=list(columns)))


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
