"""Learning curves with rungs: one panel per space."""

from __future__ import annotations

import pandas as pd

from analysis.board import is_accuracy
from analysis.charts.frame import Panel
from analysis.charts.palette import looks
from analysis.charts.scales import Kind, accuracy_ends
from analysis.charts.svg import element, number, path, visible
from samtune.messages import unit as unit_of

CAPTION = "Coloured: trained to the end, the winner thick. Grey: stopped at a rung (dotted)."
_MOST = 60


def curves(trials: pd.DataFrame, reports: pd.DataFrame, board: pd.DataFrame) -> list[Panel]:
    """Return a panel per space with the metric of each trial against the budget used.

    At most 60 trials per panel are drawn: the winner, then those with the best last value.
    """
    reports = reports[~reports["superseded"] & (reports["stage"] == "search")]
    winners = set(zip(board["run"], board["space"], board["config_sha"], strict=True))
    return [
        panel
        for _, own in trials.groupby(["run", "space"], sort=False)
        if (panel := _panel(own, reports, winners)) is not None
    ]


def _panel(
    trials: pd.DataFrame, reports: pd.DataFrame, winners: set[tuple[str, str, str]]
) -> Panel | None:
    first = trials.iloc[0]
    metric = str(first["metric"])
    own = reports[reports["trial_key"].isin(trials["trial_key"])].dropna(subset=[metric])
    if own.empty:
        return None
    sign = 1 if first["mode"] != "min" else -1
    best_first = (sign * own.groupby("trial_key")[metric].last()).sort_values(ascending=False)
    full = set(trials.loc[trials["state"] == "completed", "trial_key"])
    won = {
        row["trial_key"]
        for row in trials.to_dict("records")
        if (row["run"], row["space"], row["config_sha"]) in winners
    }
    drawn = [*won & set(best_first.index), *(key for key in best_first.index if key not in won)]
    drawn = drawn[:_MOST]
    name = visible(first["space"], 40)
    count = f"{len(full)} of {len(trials)} trained to the end"
    if len(drawn) < len(best_first):
        count += f"; {len(drawn)} of {len(best_first)} drawn"
    panel = Panel(
        title=f"{name}: {count}",
        label=f"Learning curves of {name}, {metric} against the budget used; {count}",
        x=(0.0, float(first["budget_max"])),
        y=_ends(own[metric], metric),
        y_kind=_kind(metric),
        x_label=f"{unit_of(first['budget_kind'])} used",
        y_label=metric.replace("_", " ") + (" %" if is_accuracy(metric) else ""),
    )
    for used in sorted(own.loc[own["rung"].notna(), "used"].unique()):
        x = number(panel.to_x(used))
        line = f"M{x} {number(panel.top)}V{number(panel.bottom)}"
        panel.under.append(element("path", class_="rung", d=line))
    hue = looks([first["variant"]])[first["variant"]].hue
    lines = {key: rows for key, rows in own.groupby("trial_key")}
    for key in sorted(drawn, key=lambda key: (key in won, key in full)):
        rows = lines[key].sort_values("used")
        points = [
            (panel.to_x(used), panel.to_y(value))
            for used, value in zip(rows["used"], rows[metric], strict=True)
        ]
        kind = f"h{hue} line winner" if key in won else f"h{hue} line"
        panel.marks.append(
            element("path", class_=kind if key in full else "stopped line thin", d=path(points))
        )
    return panel


def _kind(metric: str) -> Kind:
    return "error" if is_accuracy(metric) else "linear"


def _ends(values: pd.Series[float], metric: str) -> tuple[float, float]:
    """Return ends that leave the worst tenth below the frame: first epochs say little."""
    if not is_accuracy(metric):
        return float(values.min()), float(values.max())
    return accuracy_ends(float(values.quantile(0.1)), float(values.max()))
