"""Tables made ready for drawing: split by question, and one sample of trials for all charts.

A trial that one chart shows is in all of them, so that a reader can follow it. The sample is
decided by the trials' keys alone, so the same tables always give the same charts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any, Literal

import pandas as pd

from analysis.board import questions
from analysis.charts.reach import COLUMNS
from analysis.pareto import aims_of
from analysis.tables import QUESTION, ROW, confirmed, filled, may_win

Tables = Mapping[str, pd.DataFrame]
By = Literal["space", "variant", "search"]
BY: tuple[By, ...] = ("space", "variant", "search")

# Trials on a page, and the fewest of each row of the board or of each panel.
_PAGE = 720
_LEAST = 16
_MANY_ROWS = 24
# The columns that charts need; a table of trials has some eighty.
_OF_TRIALS = frozenset(
    [
        *("run", "space", "search", "variant", "trial", "trial_key", "state", "state_reason"),
        *("knobs_searched", "budget_kind", "budget_max", "metric", "mode", "ended_at", "see"),
        *("attempts", "sam_loss_gap", "key", "won", "full", "score", "row", "drawn"),
        *("aims", "constraints", "feasible", "pareto"),
    ]
)
_OF_REPORTS = ("used", "rung", "decision", "rung_cutoff")


def by_question(tables: Tables, by: By = "space") -> list[tuple[str, dict[str, pd.DataFrame]]]:
    """Return the tables of each question of the board, under its heading.

    The trials have further columns: `row` (what the chart puts together, in the order of the
    board), `won`, `full`, `score` (larger is better), `drawn` and `key` (a number of their own).
    Reports of the search have `row` and `key`; repeats have `row` and `won`.

    Args:
        tables: The tables `trials`, `curves`, `repeats`, `leaderboard`, and others that have the
            columns of a question or of a row; `ranges` has the columns of `reach.COLUMNS`.
        by: What is put together: all trials of a space, of a variant, or of one search.

    """
    board = tables["leaderboard"]
    trials = filled(tables["trials"]).reset_index(drop=True)
    whole = {
        **tables,
        "trials": trials.assign(key=range(len(trials))),
        "repeats": filled(tables["repeats"]).reset_index(drop=True),
        "curves": _of_search(tables["curves"]),
        "ranges": tables.get("ranges", pd.DataFrame(columns=list(COLUMNS))),
    }
    most = max(_LEAST, _PAGE // max(1, len(board)))
    return [(heading, _question(whole, rows, by, most)) for heading, rows in questions(board)]


def _question(tables: Tables, board: pd.DataFrame, by: By, most: int) -> dict[str, pd.DataFrame]:
    """Return the tables of one question, with at most `most` trials drawn of each row."""
    metric = str(board["metric"].iloc[0])
    found = {
        name: _asked(table, board) if set(QUESTION) <= set(table.columns) else table
        for name, table in tables.items()
    }
    repeats, trials = found["repeats"], found["trials"]
    tested = confirmed(repeats)
    repeats["won"] = repeats.index.isin(tested.index)
    repeats["row"] = _rows(repeats, board, by)
    trials["won"] = _won(trials, tested)
    trials["full"] = trials["state"] == "completed"
    trials["state_reason"] = trials["state_reason"].astype(object).fillna("")
    trials["score"] = _score(trials)
    trials["row"] = _rows(trials, board, by)
    trials["drawn"] = False
    for _, own in trials.groupby("row", observed=True):
        trials.loc[sample(own, most).index, "drawn"] = True
    aims = {metric, *aims_of(trials)}
    kept = [name for name in tables["curves"] if name == metric or name in _OF_REPORTS]
    reports = tables["curves"][["run", "trial_key", *kept]]
    return found | {
        "leaderboard": board,
        "trials": trials[[name for name in trials if _is_drawn(str(name), aims)]],
        "curves": reports.merge(
            trials[["run", "trial_key", "key", "row"]], on=["run", "trial_key"]
        ),
    }


def sample(trials: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return at most `most` trials in their order: the winners, the best third, others by lot.

    Args:
        trials: Trials with the columns of `by_question`.
        most: How many to keep; winners are kept in any case.

    """
    if len(trials) <= most:
        return trials
    order = trials.sort_values(["won", "full", "score"], ascending=False, kind="stable")
    best = max(most // 3, int(trials["won"].sum()))
    rest = order.iloc[best:]
    lots = pd.Series([_lot(row) for row in zip(rest["run"], rest["trial_key"], strict=True)])
    drawn = rest.index[lots.sort_values(kind="stable").index[: max(0, most - best)]]
    return trials.loc[trials.index.isin(order.index[:best].union(drawn))]


def _is_drawn(column: str, aims: Collection[str]) -> bool:
    return column in _OF_TRIALS or column in aims or column.startswith(("knob.", "sharp_"))


def searched_rows(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials of rows whose searches tried several; all of them of a few rows.

    The defaults of a study are one trial per search. A panel of each would fill a page.
    """
    rows = trials.groupby("row", observed=True)
    if rows.ngroups <= _MANY_ROWS:
        return trials
    several = rows["key"].transform("size") > rows["search"].transform("nunique")
    return trials[several] if several.any() else trials


def part(panels: int, most: int, together: int) -> int:
    """Return how many trials each of several panels draws.

    Args:
        panels: How many there are.
        most: The most that one of them draws.
        together: The most that they draw together, as far as each may draw 16.

    """
    return max(_LEAST, min(most, together // max(1, panels)))


def _lot(key: tuple[str, str]) -> bytes:
    return hashlib.sha256("/".join(key).encode("utf-8", "replace")).digest()


def _asked(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return a copy of what belongs to the question of these rows of the board."""
    first = rows.iloc[0]
    same = pd.Series(True, index=table.index)
    for word in QUESTION:
        same &= table[word] == first[word]
    return table[same].copy()


def _of_search(curves: pd.DataFrame) -> pd.DataFrame:
    return curves[~curves["superseded"].astype(bool) & (curves["stage"] == "search")]


def _won(trials: pd.DataFrame, repeats: pd.DataFrame) -> list[bool]:
    """Return which trials were confirmed; of a search without repeats, the best.

    Args:
        trials: Trials of one question.
        repeats: The repeats of the winners.

    """
    search = [*ROW, "search"]
    done = trials[may_win(trials)]
    done = done.assign(score=_score(done)).dropna(subset=["score"])
    best = done.sort_values("score", ascending=False, kind="stable").drop_duplicates(search)
    known = set(repeats[search].itertuples(index=False, name=None))
    open_ = [key not in known for key in best[search].itertuples(index=False, name=None)]
    won = {*zip(repeats["run"], repeats["source_trial_key"], strict=True)}
    won |= {*zip(best["run"][open_], best["trial_key"][open_], strict=True)}
    return [key in won for key in zip(trials["run"], trials["trial_key"], strict=True)]


def _score(trials: pd.DataFrame) -> pd.Series[float]:
    """Return the last value of the metric, oriented so that larger is better."""
    if trials.empty or trials["metric"].iloc[0] not in trials:
        return pd.Series(float("nan"), index=trials.index)
    values: pd.Series[float] = trials[str(trials["metric"].iloc[0])].astype(float)
    return -values if trials["mode"].iloc[0] == "min" else values


def _rows(table: pd.DataFrame, board: pd.DataFrame, by: By) -> Any:
    """Return what each line of a table belongs to, as categories in the order of the board."""
    several = board["run"].nunique() > 1

    def name(row: Mapping[Any, Any]) -> str:
        word = str(row["variant" if by == "variant" else "space"])
        return f"{row['run']}/{word}" if several and by != "variant" else word

    labels = [name(row) for row in table[["run", "space", "variant"]].to_dict("records")]
    order = [name(row) for row in board[["run", "space", "variant"]].to_dict("records")]
    if by == "search":
        numbers = [int(number) for number in table["search"]]
        most = max(numbers, default=0)
        labels = [f"{label}, search {k}" for label, k in zip(labels, numbers, strict=True)]
        order = [f"{label}, search {k}" for label in order for k in range(most + 1)]
    return pd.Categorical(labels, categories=list(dict.fromkeys([*order, *labels])))
