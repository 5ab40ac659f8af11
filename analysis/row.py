"""A row of the leaderboard: the searches of a space for one question, and their winners.

Each search has a winner, and a winner its repeats on fresh seeds. A figure of several searches is
the mean over the searches, so each counts alike whatever the number of its repeats.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from analysis import draws, pareto, sharpness, statistics
from analysis.tables import column, may_win, number, on_test
from samtune.record.columns import BESIDE

_FACTS = (
    *("run", "space", "variant", "base_optimizer", "dataset", "label_noise", "model"),
    *("augment", "task", "budget_kind", "budget_max", "metric", "mode"),
    *("search_alg", "scheduler", "knobs_searched"),
)
_STATES = ("completed", "pruned", "diverged", "error", "cancelled")
# Fewer searches than these say nothing about how much searches differ.
SEARCHES = 3


@dataclass(frozen=True)
class Search:
    """One search and its winner.

    Attributes:
        trials: Its completed trials.
        winner: The winner; None where nothing was completed.
        selects: The winner's completed runs in the select stage.
        repeats: The winner's repeats in any state.
    """

    trials: pd.DataFrame
    winner: pd.Series[Any] | None
    selects: pd.DataFrame
    repeats: pd.DataFrame

    @cached_property
    def done(self) -> pd.DataFrame:
        """The winner's completed repeats."""
        return self.repeats[self.repeats["state"] == "completed"]

    def best(self, metric: str) -> float | None:
        """Return the winner's value in the search."""
        return None if self.winner is None else number(self.winner.get(metric))

    def default(self, metric: str) -> float | None:
        """Return the value of the space's default configuration."""
        return number(column(self.trials[self.trials["origin"] == "default"], metric).mean())

    def selected(self, metric: str) -> float | None:
        """Return the winner's mean in the select stage."""
        values = column(self.selects, metric)
        if _counts_search(self.selects) and (best := self.best(metric)) is not None:
            values = pd.concat([values, pd.Series([best])])
        return number(values.mean())

    def promise(self, metric: str) -> float | None:
        """Return what validation promises of the winner: its select mean, else its best."""
        mean = self.selected(metric)
        return self.best(metric) if mean is None else mean


def row(
    trials: pd.DataFrame, selects: pd.DataFrame, repeats: pd.DataFrame, won: pd.DataFrame
) -> dict[str, Any]:
    """Return the columns of a row.

    Args:
        trials: Its trials in the search stage.
        selects: Its runs in the select stage.
        repeats: Its repeats.
        won: Those of the winners.

    """
    first = trials.iloc[0]
    metric, mode = str(first["metric"]), str(first["mode"])
    sign = 1 if mode == "max" else -1
    states = trials["state"].value_counts()
    completed = trials[trials["state"] == "completed"]
    searches = [
        _search(
            completed[completed["search"] == search],
            selects[selects["search"] == search],
            won[won["search"] == search],
            metric,
            mode,
        )
        for search in sorted(trials["search"].unique())
    ]
    chosen = _chosen(searches, metric, sign)
    done = pd.concat([each.done for each in searches])
    found: dict[str, Any] = {
        **{name: first[name] for name in _FACTS},
        "test_metric": on_test(metric),
        "tie_margin": number(first.get("tie_margin")),
        "searches": len(searches),
        "search_see": trials["see"].sum(),
        "n_knobs": len(json.loads(first["knobs_searched"])),
        "config_json": "{}" if chosen is None else chosen["config_json"],
        "config_sha": "" if chosen is None else chosen["config_sha"],
        "trials": len(trials),
        **{f"trials_{state}": int(states.get(state, 0)) for state in _STATES},
        "pareto_trials": pareto.numbers(trials),
        "tuning_gain": mean(
            difference(each.best(metric), each.default(metric), sign) for each in searches
        ),
        "select_mean": mean(each.selected(metric) for each in searches),
        "repeats": len(done),
        "repeats_diverged": sum(int((s.repeats["state"] == "diverged").sum()) for s in searches),
        "optimism": mean(
            difference(each.promise(metric), number(column(each.done, metric).mean()), sign)
            for each in searches
        ),
        "test_openings": int(repeats["test_openings"].sum()),
        "see_per_run": number(done["see"].mean()),
        "train_s_per_run": number(done["train_s"].mean()),
        "peak_mem_mb": number(trials["peak_rss_mb"].max()),
    }
    for name in dict.fromkeys(["val_acc", metric]):
        found |= {
            f"best_{name}": mean(each.best(name) for each in searches),
            f"median_{name}": number(column(trials, name).median()),
            f"default_{name}": mean(each.default(name) for each in searches),
            f"{name}_mean": mean(column(each.done, name).mean() for each in searches),
        }
    for name in dict.fromkeys(["test_acc", on_test(metric)]):
        found |= _on_test(name, searches)
    by_search = _values(on_test(metric), searches)
    found["between_search_sd"] = (
        statistics.between_searches(by_search) if len(by_search) >= SEARCHES else None
    )
    # Over the searches, if it is the metric of the search.
    found = _of_classifier(done) | found | sharpness.means(done)
    return found | draws.columns(trials, metric, sign)


def _search(
    completed: pd.DataFrame, selects: pd.DataFrame, won: pd.DataFrame, metric: str, mode: str
) -> Search:
    winner = _winner(completed, selects, won, metric, mode)
    key = None if winner is None else winner["trial_key"]
    of_winner = selects[(selects["source_trial_key"] == key) & (selects["state"] == "completed")]
    return Search(completed, winner, of_winner, won[won["source_trial_key"] == key])


def _winner(
    completed: pd.DataFrame, selects: pd.DataFrame, won: pd.DataFrame, metric: str, mode: str
) -> pd.Series[Any] | None:
    """Return the trial that was confirmed; unconfirmed, the best selected, else the best."""
    if len(won):
        completed = completed[completed["trial_key"] == won["source_trial_key"].iloc[0]]
        return completed.iloc[0] if len(completed) else None
    completed = completed[may_win(completed)]
    if metric in completed:
        lost = selects.loc[selects["state"] != "completed", "source_trial_key"]
        fresh = selects[~selects["source_trial_key"].isin(lost)]
        values = column(fresh, metric).set_axis(fresh["source_trial_key"])
        if _counts_search(selects):
            own = completed.set_index("trial_key")[metric]
            values = pd.concat([values, own[own.index.isin(values.index)]])
        means = values.groupby(level=0).mean()
        value = completed["trial_key"].map(means).dropna()
        value = value if len(value) else completed[metric]
        ordered = value.sort_values(ascending=mode == "min", kind="stable")
        completed = completed.loc[ordered.index]
    return completed.iloc[0] if len(completed) else None


def _counts_search(selects: pd.DataFrame) -> bool:
    """Return whether the value of the search counts in a select mean as that of a seed."""
    return bool(column(selects, "with_search").eq(True).any())


def _chosen(searches: Sequence[Search], metric: str, sign: int) -> pd.Series[Any] | None:
    """Return the winner that validation promises most of."""
    won = [each for each in searches if each.winner is not None]
    if not won:
        return None

    def promise(search: Search) -> float:
        value = search.promise(metric)
        return -math.inf if value is None else sign * value

    return max(won, key=promise).winner


def _values(metric: str, searches: Sequence[Search]) -> list[list[float]]:
    """Return the values of the completed repeats, for each search that has some."""
    found = [column(each.done, metric).dropna().tolist() for each in searches]
    return [values for values in found if values]


def _on_test(metric: str, searches: Sequence[Search]) -> dict[str, float | None]:
    """Return a metric's statistics over the completed repeats."""
    by_search = _values(metric, searches)
    variances = [pd.Series(values).var() for values in by_search]
    variance = mean(variances)
    low, high = interval(by_search)
    return {
        f"{metric}_mean": mean(math.fsum(values) / len(values) for values in by_search),
        f"{metric}_sd": None if variance is None else math.sqrt(variance),
        f"{metric}_lo": number(low),
        f"{metric}_hi": number(high),
    }


def interval(by_search: Sequence[Sequence[float]]) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a row's mean.

    From three searches on it is Student's t interval of the search means, and speaks of the
    variant. Below, it speaks of the configurations that won: Student's t interval over the
    repeats of one, Satterthwaite's of the mean over two.

    Args:
        by_search: The values of each search.

    Returns:
        Its ends; (None, None) where a search has fewer than two values.

    """
    if len(by_search) >= SEARCHES:
        return statistics.over_studies(by_search)[1:3]
    if not by_search or any(len(values) < 2 for values in by_search):
        return None, None
    return statistics.over_tasks(by_search)[1:3]


def _of_classifier(done: pd.DataFrame) -> dict[str, float | None]:
    """Return what only classifiers report; `test_binom_se` is sqrt(p (1 - p) / n)."""
    p, n = number(done["test_acc"].mean()), number(done["n_test"].mean())
    return {
        "test_binom_se": math.sqrt(max(0.0, p * (1 - p)) / n) if n and p is not None else None,
        "test_nll_mean": number(done["test_nll"].mean()),
        "test_ece_mean": number(done["test_ece"].mean()),
        "test_brier_mean": number(column(done, "test_brier").mean()),
        **{f"{name}_mean": number(column(done, name).mean()) for name in BESIDE},
    }


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that there are."""
    known = [found for value in values if (found := number(value)) is not None]
    return math.fsum(known) / len(known) if known else None


def difference(best: float | None, other: float | None, sign: int) -> float | None:
    """Return by how much `best` is better than `other`."""
    return None if best is None or other is None else sign * (best - other)
