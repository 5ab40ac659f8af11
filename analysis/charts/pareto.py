"""Pareto: two aims of a search against each other, with the front of each row."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.charts.frame import Panel
from analysis.charts.metric import Metric
from analysis.charts.palette import looks
from analysis.charts.scales import Kind, padded
from analysis.charts.svg import visible
from analysis.pareto import aims_of

CAPTION = (
    "Trials that were trained to the end. Large: on the front of its search, no other trial is as "
    "good in each aim and better in one; a line joins the front of two aims. Hollow: a constraint "
    "is missed."
)


def pareto(trials: pd.DataFrame) -> list[Panel]:
    """Return a panel per pair of aims; none where the searches have one metric."""
    aims = aims_of(trials)
    full = trials[trials["full"]].dropna(subset=list(aims)) if aims else trials.iloc[:0]
    if full.empty:
        return []
    pairs = itertools.combinations(aims, 2)
    return [_panel(full, x, y, aims, line=len(aims) == 2) for y, x in pairs]


def _panel(trials: pd.DataFrame, x: str, y: str, aims: Mapping[str, str], line: bool) -> Panel:
    across, up = Metric(x), Metric(y)
    look = looks(trials["variant"])
    drawn = trials[trials["drawn"] | trials["pareto"].eq(True)]
    low, high = float(trials[x].min()), float(trials[x].max())
    kind: Kind = "log" if across.kind == "linear" and low > 0 and high >= 10 * low else across.kind
    better = {"max": "higher", "min": "lower"}
    panel = Panel(
        title=f"{visible(y, 30)} against {visible(x, 30)}",
        label=f"{y} ({aims[y]}) against {x} ({aims[x]}) for {', '.join(look)}; "
        f"{int(trials['pareto'].eq(True).sum())} on a front, {len(drawn)} of {len(trials)} drawn",
        x=across.ends(trials[x]) if kind != "log" else padded(low, high, "log"),
        y=up.ends(trials[y]),
        x_kind=kind,
        y_kind=up.kind,
        x_label=f"{across.words}, {better[aims[x]]} is better",
        y_label=f"{up.words}, {better[aims[y]]} is better",
        looks=[*look.values()],
    )
    drawn = drawn.assign(best=drawn["pareto"].eq(True))
    for row in drawn.sort_values("best", kind="stable").to_dict("records"):
        size = 5.0 if row["best"] else 2.6
        shape = "hollow" if row["feasible"] is False else "point"
        shape += " big" if row["best"] else ""
        mark = panel.point(look[row["variant"]], row[x], row[y], shape, size, row["key"])
        panel.marks.append(mark)
    for _, own in trials[trials["pareto"].eq(True)].groupby("row", observed=True) if line else ():
        corners = steps([*zip(own[x], own[y], strict=True)], falls=aims[x] == "min")
        panel.under.append(panel.line(f"{look[own['variant'].iloc[0]]} line step", corners))
    return panel


def steps(points: Sequence[tuple[Any, Any]], falls: bool) -> list[tuple[float, float]]:
    """Return the border of what a front dominates: its points with a corner between each two.

    Args:
        points: The points of the front, in any order.
        falls: Whether less is better along x.
    """
    found: list[tuple[float, float]] = []
    for x, y in sorted((float(x), float(y)) for x, y in points):
        if found:
            before = found[-1]
            found.append((x, before[1]) if falls else (before[0], y))
        found.append((x, y))
    return found
