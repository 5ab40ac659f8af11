"""Verdicts on a leaderboard: each row against a baseline, and all pairs.

Rows of one question are compared over the searches and seed bundles that both completed. A verdict
is about the variant from three searches on; one search does not show how much searches differ, so
its verdict is about the configuration that was confirmed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import draws, statistics
from analysis.comparison import Comparison, judge, rank_sets, scores
from analysis.leaderboard import leaderboard
from analysis.statistics import Judged
from analysis.tables import QUESTION, ROW, read_confirmed
from samtune.record import tables

BASELINE = "sgd"
Key = tuple[str, str]
"""A row of the board: its run and its space."""

IMAGES = ("images_lo", "images_hi", "images_p")
"""The columns of the test that takes the images as random draws too, like the seeds."""

COLUMNS = (
    *("error_reduction", "trials_to_baseline"),
    *("baseline", "verdict", "verdict_about", "plan", "look", "margin", "rank_lo", "rank_hi"),
    *("n", "diff_mean", "diff_se", "diff_lo", "diff_hi", "p", "p_holm", "p_tied", "wins", "mde"),
    *("seeds_needed", "searches_needed", *IMAGES),
)


def compare(
    folders: Sequence[Path], baseline: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the judged leaderboard of runs, and its pairs.

    Args:
        folders: Folders that hold the tables of a run each.
        baseline: Variant or space that the rows are compared with; None for that of the study,
            or tuned SGD.

    Raises:
        TableError: A folder's tables cannot be read.

    """
    return judged(leaderboard(folders), folders, baseline or _of_study(folders) or BASELINE)


def _of_study(folders: Sequence[Path]) -> str:
    """Return the baseline that a study names; empty where no run is one."""
    named = (tables.metadata(folder / "trials.parquet") for folder in folders)
    return next((found for each in named if (found := each.get("samtune.baseline"))), "")


def judged(
    board: pd.DataFrame, folders: Iterable[Path], baseline: str = BASELINE
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the rows of a board within each question.

    Args:
        board: A leaderboard.
        folders: The folders with the repeats of its runs.
        baseline: Variant or space that the rows are compared with, where a question has it.

    Returns:
        The board with the columns `COLUMNS`, and a row per pair of confirmed rows.

    """
    own = read_confirmed(folders).groupby(ROW, dropna=False)
    repeats: dict[Hashable, pd.DataFrame] = {key: rows for key, rows in own}
    several = board["expected_best_1"].notna().sum() > 1
    drawn = draws.by_row(folders) if several else {}
    columns: dict[Any, dict[str, Any]] = {}
    pairs: list[dict[str, Any]] = []
    for _, rows in board.groupby(QUESTION, sort=False, dropna=False):
        question = _Question(rows, repeats, drawn)
        columns |= question.columns(baseline)
        pairs += question.pairs(baseline)
    found = pd.DataFrame.from_dict(columns, orient="index", columns=list(COLUMNS))
    judged_board = board.drop(columns=list(COLUMNS), errors="ignore").join(found)
    order = dict.fromkeys([*board.columns, *COLUMNS])
    return judged_board[list(order)], pd.DataFrame(pairs, columns=tables.schema("pairs").names)


class _Question:
    """The confirmed rows of one question, and the comparisons of all their pairs."""

    def __init__(
        self,
        rows: pd.DataFrame,
        repeats: Mapping[Hashable, pd.DataFrame],
        drawn: Mapping[Hashable, Sequence[float]],
    ) -> None:
        first = rows.iloc[0]
        self.rows, self.drawn = rows, drawn
        self.metric = str(first["metric"])
        ranked = rows[rows["rank"].notna()].to_dict("records")
        own = {key(row): repeats[tuple(row[word] for word in ROW)] for row in ranked}
        sign = 1.0 if first["mode"] == "max" else -1.0
        self.scores = scores(own, str(first["test_metric"]), sign)
        sizes = [size for each in own.values() for size in each["n_test"].dropna()]
        accuracy = first["test_metric"] == "test_acc" and len(sizes) > 0
        n_test = int(min(sizes)) if accuracy else None
        self.n_test = n_test
        self.compared = {
            (a, b): Comparison(self.scores[a], self.scores[b], n_test)
            for a in own
            for b in own
            if a != b
        }

    def baseline(self, name: str) -> dict[str, Any] | None:
        """Return the confirmed row of the baseline; None where there is none."""
        for word in ("space", "variant"):
            for row in self.rows.to_dict("records"):
                if row[word] == name and key(row) in self.scores:
                    return {str(column): value for column, value in row.items()}
        return None

    def margin(self, row: Mapping[Any, Any]) -> float:
        """Return the space's margin, else the one by a row's validation score.

        Both are known before test is opened.
        """
        if not pd.isna(row["tie_margin"]):
            return float(row["tie_margin"])
        return statistics.margin(float(row[f"best_{self.metric}"]), self.n_test)

    def columns(self, baseline: str) -> dict[Any, dict[str, Any]]:
        """Return the columns of each row, by its place in the board."""
        ranks = rank_sets(list(self.scores), self.compared)
        against = self.baseline(baseline)
        judged = {} if against is None else self._against(against)
        found = {}
        for index, row in zip(self.rows.index, self.rows.to_dict("records"), strict=True):
            columns: dict[str, Any] = {"verdict": _unconfirmed(row)}
            if key(row) in self.scores:
                own = self.scores[key(row)]
                low, high = ranks[key(row)]
                columns = {"rank_lo": low, "rank_hi": high}
                columns |= {"verdict_about": own.about, "plan": own.described}
                columns |= judged.get(key(row), {})
            if against is not None:
                columns["baseline"] = against["space"]
                columns |= self._beside(row, columns, against)
                if key(row) == key(against):
                    columns |= {"verdict": "baseline", "margin": self.margin(against)}
            found[index] = columns
        return found

    def _beside(
        self, row: Mapping[Any, Any], columns: Mapping[str, Any], baseline: Mapping[Any, Any]
    ) -> dict[str, Any]:
        """Return the columns of a row relative to the baseline that are not of the paired test."""
        found: dict[str, Any] = {}
        error = 1 - float(baseline["test_acc_mean"] if self.n_test else math.nan)
        if error > 0 and columns.get("diff_mean") is not None:
            found["error_reduction"] = columns["diff_mean"] / error
        own, base = (self.drawn.get(tuple(each[word] for word in ROW)) for each in (row, baseline))
        if own and base:
            found["trials_to_baseline"] = draws.trials_to_reach(own, base, self.metric)
        return found

    def _against(self, baseline: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
        """Return the comparison of every other row with the baseline."""
        others = [(other, key(baseline)) for other in self.scores if other != key(baseline)]
        return {a: columns for (a, _), columns in self._judged(others, baseline).items()}

    def pairs(self, baseline: str) -> list[dict[str, Any]]:
        """Return a row per pair of confirmed rows, Holm's family being all of them."""
        keys = list(self.scores)
        against = self.baseline(baseline)
        if len(keys) < 2:
            return []
        # Without a baseline the first row's validation score sets the margin.
        by_key = {key(row): row for row in self.rows.to_dict("records")}
        family = [(a, b) for k, a in enumerate(keys) for b in keys[k + 1 :]]
        first = self.rows.iloc[0]
        question = {word: first[word] for word in QUESTION}
        names = ("run_a", "space_a"), ("run_b", "space_b")
        rows = []
        for (a, b), columns in self._judged(family, against or by_key[keys[0]]).items():
            who = dict(zip(names[0] + names[1], a + b, strict=True))
            variants = {
                "variant_a": by_key[a]["variant"],
                "variant_b": by_key[b]["variant"],
            }
            rows.append(question | who | variants | columns)
        return rows

    def _judged(
        self, family: Sequence[tuple[Key, Key]], baseline: Mapping[Any, Any]
    ) -> dict[tuple[Key, Key], dict[str, Any]]:
        """Return the figures and the word of each comparison of a family."""
        margin = self.margin(baseline)
        own = {pair: self.compared[pair] for pair in family}
        alpha = statistics.ALPHA / max(len(family), 1)
        return {
            pair: {"verdict_about": own[pair].about, "margin": margin}
            | _figures(judged, own[pair], alpha)
            for pair, judged in judge(own, margin).items()
        }


def _figures(judged: Judged, compared: Comparison, alpha: float) -> dict[str, Any]:
    """Return the columns of a comparison; `diff` is positive where its first row is better."""
    pair = judged.pair
    if pair is None:
        return {"verdict": judged.word, "n": 0}
    needed = "searches_needed" if compared.about == "variant" else "seeds_needed"
    look = (judged.look or None) if compared.looks else None
    images = compared.images(look) or (None, None, None)
    return {
        "verdict": judged.word,
        "look": look,
        "n": pair.n,
        "diff_mean": pair.mean,
        "diff_se": pair.se,
        "diff_lo": _finite(pair.lo),
        "diff_hi": _finite(pair.hi),
        "p": pair.p,
        "p_holm": judged.p_holm,
        "p_tied": pair.p_tied,
        **dict(zip(IMAGES, images, strict=True)),
        "wins": pair.wins,
        "mde": statistics.detectable(pair.sd, pair.n, alpha),
        needed: _finite(statistics.seeds_needed(pair.mean, pair.sd, alpha)),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _unconfirmed(row: Mapping[Any, Any]) -> str | None:
    diverged = int(row["repeats_diverged"])
    return f"diverged {diverged} of {diverged + int(row['repeats'])}" if diverged else None


def key(row: Mapping[Any, Any]) -> Key:
    """Return the run and the space of a row."""
    return str(row["run"]), str(row["space"])
