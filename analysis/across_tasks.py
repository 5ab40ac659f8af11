"""Figures beside the mean over tasks, which decide nothing: shares, costs and transfers.

No figure here has an interval: a bootstrap over so few seeds and tasks would be too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import descriptive
from analysis.board import is_accuracy
from analysis.tables import ROW, column, read, read_confirmed
from samtune.record import tables

COLUMNS = ("error_reduction_iqm", "profile_area", "transfer_regret", "transfer_configs")
_PLACE = ["search", "seed_bundle"]


class Tables:
    """The repeats, trials and curves of several runs, each read when it is asked for."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = list(dict.fromkeys(folders))
        self._repeats: pd.DataFrame | None = None

    @property
    def repeats(self) -> pd.DataFrame:
        """The repeats of the winners that completed."""
        if self._repeats is None:
            found = read_confirmed(self.folders)
            self._repeats = found[found["state"] == "completed"]
        return self._repeats

    def trials(self, run: str) -> pd.DataFrame:
        """Return the completed trials of a run."""
        found = pd.concat([read(folder, "trials") for folder in self.folders])
        return found[(found["run"] == run) & (found["state"] == "completed")]

    def curves(self, metric: str) -> pd.DataFrame:
        """Return the reports of the repeats, in their order; none where a run has no curves."""
        wanted = ["trial_key", "stage", "epoch", "see", "superseded", metric]
        names = list(dict.fromkeys(wanted))
        paths = [folder / "curves.parquet" for folder in self.folders]
        # The metric of one run may be none of another's.
        known = [p for p in paths if p.exists() and set(names) <= set(tables.names(p))]
        if not known:
            return pd.DataFrame(columns=names)
        whole = pd.concat([tables.read(path, "curves", names).to_pandas() for path in known])
        kept = (whole["stage"] == "confirm") & ~whole["superseded"]
        repeats: pd.DataFrame = whole[kept].sort_values("epoch")
        return repeats


def beside(rows: pd.DataFrame, of: Tables) -> dict[str, dict[str, float | None]]:
    """Return the columns `COLUMNS` of each space of a study; those that do not apply are None.

    Args:
        rows: Judged rows of one study over its tasks.
        of: The tables of its run.

    """
    first = rows.iloc[0]
    metric, sign = str(first["metric"]), 1 if first["mode"] == "max" else -1
    areas = _areas(rows, of, metric, sign)
    trials = of.trials(str(first["run"]))
    found: dict[str, dict[str, float | None]] = {}
    for space, own in rows.groupby("space", sort=False):
        regret, configs = _regret(trials[trials["space"] == space], metric, sign)
        found[str(space)] = {
            "error_reduction_iqm": _iqm(own, rows, of) if is_accuracy(metric) else None,
            "profile_area": areas.get(str(space)),
            "transfer_regret": regret,
            "transfer_configs": configs,
        }
    return found


def _of_row(repeats: pd.DataFrame, row: pd.Series[Any]) -> pd.DataFrame:
    return repeats[(repeats[ROW] == row[ROW]).all(axis=1)]


def _iqm(own: pd.DataFrame, rows: pd.DataFrame, of: Tables) -> float | None:
    """Return the interquartile mean of the shares of errors saved, over tasks and seeds."""
    shares: list[float] = []
    for _, row in own.iterrows():
        base = rows[(rows["task"] == row["task"]) & (rows["space"] == row["baseline"])]
        if base.empty or row["space"] == row["baseline"]:
            return None
        scores, others = (
            _of_row(of.repeats, each).set_index(_PLACE)["test_acc"].astype(float)
            for each in (row, base.iloc[0])
        )
        error = 1 - others.mean()
        if not error > 0:
            return None
        shares += ((scores - others).dropna() / error).tolist()
    return descriptive.interquartile_mean(shares) if shares else None


def _areas(rows: pd.DataFrame, of: Tables, metric: str, sign: int) -> dict[str, float]:
    """Return the area under the performance profile of each space that has every task.

    The cost of a space on a task is the median over its repeats of the see at the first report
    that is as good as the baseline's median repeat at its end, both on validation.
    """
    curves = of.curves(metric)
    if curves.empty or metric not in curves:
        return {}
    by_key = dict(list(curves.groupby("trial_key")))
    costs: dict[str, list[float]] = {}
    for _, own in rows.groupby("task", sort=False):
        base = own[own["space"] == own["baseline"]]
        if base.empty:
            return {}
        target = column(_of_row(of.repeats, base.iloc[0]), metric).median()
        for _, row in own.iterrows():
            keys = _of_row(of.repeats, row).get("trial_key", pd.Series(dtype=object)).dropna()
            sees = [_see_to(by_key[key], metric, sign, target) for key in keys if key in by_key]
            costs.setdefault(str(row["space"]), []).append(
                float(np.median(sees)) if sees else math.inf
            )
    tasks = rows["task"].nunique()
    whole = {space: cost for space, cost in costs.items() if len(cost) == tasks}
    return descriptive.performance_profile(whole) if tasks > 1 else {}


def _see_to(reports: pd.DataFrame, metric: str, sign: int, target: float) -> float:
    reached = reports.loc[sign * reports[metric] >= sign * target, "see"]
    return float(reached.iloc[0]) if len(reached) else math.inf


def _regret(trials: pd.DataFrame, metric: str, sign: int) -> tuple[float | None, int | None]:
    """Return the loss on other tasks of a choice on one, and the number of configurations.

    Only the configurations that were trained to the end on every task count.
    """
    scores = {
        str(task): (sign * column(own, metric)).groupby(own["config_sha"]).mean().dropna()
        for task, own in trials.groupby("task", sort=False)
    }
    if len(scores) < 2:
        return None, None
    common = set.intersection(*(set(own.index) for own in scores.values()))
    if len(common) < 2:
        return None, len(common)
    names = sorted(map(str, common))
    shared = {task: dict(zip(names, own[names], strict=True)) for task, own in scores.items()}
    regrets = [descriptive.transfer_regret(shared, task) for task in shared]
    return float(np.mean(regrets)), len(common)
