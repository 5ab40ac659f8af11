"""Verdicts on a leaderboard: each row against a baseline, all pairs, and a summary in words.

Rows of one question are compared over the seed bundles that both completed. A verdict is about
the configuration that was confirmed: one search per row does not show how much searches differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import statistics
from analysis.board import is_accuracy
from analysis.leaderboard import QUESTION, leaderboard
from samtune.record import tables

BASELINE = "sgd"
Key = tuple[str, str]
"""A row of the board: its run and its space."""

COLUMNS = (
    *("baseline", "verdict", "verdict_about", "plan", "margin", "rank_lo", "rank_hi"),
    *("n", "diff_mean", "diff_lo", "diff_hi", "p", "p_holm", "p_tied", "wins", "mde"),
    "seeds_needed",
)


def compare(
    folders: Sequence[Path], baseline: str = BASELINE
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the judged leaderboard of runs, and its pairs.

    Args:
        folders: Folders that hold the tables of a run each.
        baseline: Variant or space that the rows are compared with.

    Raises:
        TableError: A folder's tables cannot be read.

    """
    return judged(leaderboard(folders), folders, baseline)


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
    repeats = _repeats(folders)
    columns: dict[Any, dict[str, Any]] = {}
    pairs: list[dict[str, Any]] = []
    for _, rows in board.groupby(QUESTION, sort=False, dropna=False):
        question = _Question(rows, repeats)
        columns |= question.columns(baseline)
        pairs += question.pairs(baseline)
    found = pd.DataFrame.from_dict(columns, orient="index", columns=list(COLUMNS))
    judged_board = board.drop(columns=list(COLUMNS), errors="ignore").join(found)
    order = dict.fromkeys([*board.columns, *COLUMNS])
    return judged_board[list(order)], pd.DataFrame(pairs, columns=tables.schema("pairs").names)


def summary(board: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Return a summary: the leader, the undecided rows, and the seeds that would decide them.

    Args:
        board: Judged rows of one question.
        pairs: The pairs of the board; those of other questions are left out.

    """
    shown = set(map(_key, board.to_dict("records")))
    ranked = board[board["rank"].notna()].sort_values("rank")
    if ranked.empty:
        return "No configuration is confirmed, so there is no verdict."
    accuracy = is_accuracy(str(board["metric"].iloc[0]))
    several = board["run"].nunique() > 1

    def label(key: Key) -> str:
        return "/".join(key) if several else key[1]

    first = _key(ranked.iloc[0].to_dict())
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


class _Question:
    """The rows of one question, with their scores in the order of common bundles."""

    def __init__(self, rows: pd.DataFrame, repeats: pd.DataFrame) -> None:
        first = rows.iloc[0]
        self.rows = rows
        self.metric, self.test = str(first["metric"]), str(first["test_metric"])
        self.sign = 1.0 if first["mode"] == "max" else -1.0
        self.scores, sizes = self._scores(repeats)
        accuracy = self.test == "test_acc" and len(sizes) > 0
        self.n_test = int(sizes.min()) if accuracy else None

    def _scores(self, repeats: pd.DataFrame) -> tuple[dict[Key, list[float]], pd.Series[Any]]:
        """Return oriented scores per ranked row, and the sizes of the test splits."""
        own = {}
        sizes = []
        for row in self.rows[self.rows["rank"].notna()].to_dict("records"):
            done = repeats[
                (repeats["run"] == row["run"])
                & (repeats["space"] == row["space"])
                & (repeats["config_sha"] == row["config_sha"])
                & (repeats["rank_in_search"] == 0)
                & (repeats["state"] == "completed")
            ].drop_duplicates("seed_bundle", keep="last")
            own[_key(row)] = self.sign * done.set_index("seed_bundle")[self.test].astype(float)
            sizes.append(done["n_test"].dropna())
        table = pd.DataFrame(own).sort_index()
        scores = {key: table[key].tolist() for key in own}
        return scores, pd.concat(sizes) if sizes else pd.Series(dtype=float)

    def baseline(self, name: str) -> dict[str, Any] | None:
        """Return the confirmed row of the baseline; None where there is none."""
        for word in ("space", "variant"):
            for row in self.rows.to_dict("records"):
                if row[word] == name and _key(row) in self.scores:
                    return {str(key): value for key, value in row.items()}
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
        named = {str(key): values for key, values in self.scores.items()}
        ranks = statistics.rank_sets(named, self.n_test)
        against = self.baseline(baseline)
        judged = {} if against is None else self._against(against)
        found = {}
        for index, row in zip(self.rows.index, self.rows.to_dict("records"), strict=True):
            key = _key(row)
            columns: dict[str, Any] = {"verdict": _unconfirmed(row)}
            if key in self.scores:
                low, high = ranks[str(key)]
                columns = {"rank_lo": low, "rank_hi": high, "verdict_about": "configuration"}
                columns |= {"plan": f"fixed {row['repeats']}"}
                columns |= judged.get(key, {})
            if against is not None:
                columns["baseline"] = against["space"]
                if key == _key(against):
                    columns |= {"verdict": "baseline", "margin": self.margin(against)}
            found[index] = columns
        return found

    def _against(self, baseline: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
        """Return the comparison of every other row with the baseline."""
        key, margin = _key(baseline), self.margin(baseline)
        others = [other for other in self.scores if other != key]
        compared = {(other, key): self._paired(other, key, margin) for other in others}
        return {a: columns for (a, _), columns in _decided(compared, margin).items()}

    def pairs(self, baseline: str) -> list[dict[str, Any]]:
        """Return a row per pair of confirmed rows, Holm's family being all of them."""
        keys = list(self.scores)
        against = self.baseline(baseline)
        if len(keys) < 2:
            return []
        # Without a baseline the first row's validation score sets the margin.
        by_key = {_key(row): row for row in self.rows.to_dict("records")}
        margin = self.margin(by_key[keys[0]] if against is None else against)
        compared = {
            (a, b): self._paired(a, b, margin) for k, a in enumerate(keys) for b in keys[k + 1 :]
        }
        first = self.rows.iloc[0]
        question = {word: first[word] for word in QUESTION}
        names = ("run_a", "space_a"), ("run_b", "space_b")
        rows = []
        for (a, b), columns in _decided(compared, margin).items():
            who = dict(zip(names[0] + names[1], a + b, strict=True))
            variants = {
                "variant_a": by_key[a]["variant"],
                "variant_b": by_key[b]["variant"],
            }
            rows.append(question | who | variants | columns)
        return rows

    def _paired(self, a: Key, b: Key, margin: float) -> statistics.Paired | None:
        x, y = self.scores[a], self.scores[b]
        common = sum(math.isfinite(u) and math.isfinite(v) for u, v in zip(x, y, strict=True))
        return statistics.paired(x, y, self.n_test, margin) if common >= 2 else None


def _decided(
    compared: Mapping[tuple[Key, Key], statistics.Paired | None], margin: float
) -> dict[tuple[Key, Key], dict[str, Any]]:
    """Return the figures and the word of each comparison of one family."""
    family = len(compared)
    alpha = statistics.ALPHA / max(family, 1)
    adjusted = statistics.holm(
        {str(key): pair.p for key, pair in compared.items() if pair is not None}, family
    )
    found: dict[tuple[Key, Key], dict[str, Any]] = {}
    for key, pair in compared.items():
        if pair is None:
            found[key] = {"verdict": "underpowered", "n": 0, "margin": margin}
            continue
        p_holm = adjusted[str(key)]
        word = statistics.word(pair, p_holm, statistics.ALPHA)
        found[key] = {
            "verdict": word,
            "n": pair.n,
            "diff_mean": pair.mean,
            "diff_lo": pair.lo,
            "diff_hi": pair.hi,
            "p": pair.p,
            "p_holm": p_holm,
            "p_tied": pair.p_tied,
            "wins": pair.wins,
            "margin": margin,
            "mde": statistics.detectable(pair.sd, pair.n, alpha),
            "seeds_needed": _finite(statistics.seeds_needed(pair.mean, pair.sd, alpha)),
        }
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _unconfirmed(row: Mapping[Any, Any]) -> str | None:
    diverged = int(row["repeats_diverged"])
    return f"diverged {diverged} of {diverged + int(row['repeats'])}" if diverged else None


def _repeats(folders: Iterable[Path]) -> pd.DataFrame:
    found: list[pd.DataFrame] = [
        tables.read(folder / "repeats.parquet", "repeats").to_pandas()
        for folder in dict.fromkeys(folders)
    ]
    return pd.concat(found, ignore_index=True)


def _key(row: Mapping[Any, Any]) -> Key:
    return str(row["run"]), str(row["space"])


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
