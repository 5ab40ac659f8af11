"""Learning curves with rungs: one panel per row."""

from __future__ import annotations

import pandas as pd

from analysis.charts.frame import Panel
from analysis.charts.metric import Metric
from analysis.charts.palette import looks
from analysis.charts.sample import part, sample, searched_rows
from analysis.charts.svg import element, number, path, visible
from samtune.messages import unit as unit_of

CAPTION = (
    "Coloured: trained to the end, the winner thick. Grey with a cross: stopped at a rung "
    "(dotted line). Tinted band: 80 % of all trials."
)
# Lines of a panel, and of all panels together.
_MOST, _TOGETHER = 60, 360
_VERTICES = 60
# A band needs so many trials.
_BAND = 5


def curves(trials: pd.DataFrame, reports: pd.DataFrame) -> list[Panel]:
    """Return a panel per row with the metric of each trial against the budget used."""
    metric = Metric.of(trials)
    if metric.name not in reports or trials["row"].empty:
        return []
    reports = reports.dropna(subset=[metric.name])
    groups = [own for _, own in searched_rows(trials).groupby("row", observed=True)]
    most = part(len(groups), _MOST, _TOGETHER)
    by_row = {name: own for name, own in reports.groupby("row", observed=True)}
    return [
        _panel(own, by_row[own["row"].iloc[0]], metric, most)
        for own in groups
        if own["row"].iloc[0] in by_row
    ]


def _panel(trials: pd.DataFrame, reports: pd.DataFrame, metric: Metric, most: int) -> Panel:
    first = trials.iloc[0]
    name = visible(first["row"], 40)
    reported = trials[trials["key"].isin(reports["key"])]
    drawn = sample(reported[reported["drawn"]], most)
    full = f"{int(trials['full'].sum())} of {len(trials)}"
    count, title = f"{full} trained to the end", f"{name}: {full} to the end"
    if len(drawn) < len(reported):
        count += f"; {len(drawn)} of {len(reported)} drawn"
        title += f", {len(drawn)} drawn"
    look = looks([first["variant"]])[first["variant"]]
    last = reports.groupby("key")["used"].idxmax()
    low = reports.loc[last, metric.name]
    panel = Panel(
        title=title,
        label=f"Learning curves of {name}, {metric.name} against the budget used; {count}",
        x=(0.0, float(trials["budget_max"].max())),
        y=metric.ends(pd.concat([low, reports[metric.name].nlargest(1)]), worst=0.1),
        y_kind=metric.kind,
        x_label=f"{unit_of(first['budget_kind'])} used",
        y_label=metric.words,
        looks=[look],
    )
    for used in sorted(reports.loc[reports["rung"].notna(), "used"].unique()):
        x = number(panel.to_x(used))
        line = f"M{x} {number(panel.top)}V{number(panel.bottom)}"
        panel.under.append(element("path", class_="rung", d=line))
    if len(drawn) < len(reported):
        _add_band(panel, reports, metric, f"{look} band")
    shown = reports[reports["key"].isin(drawn["key"])].sort_values("used", kind="stable")
    lines = {
        key: list(zip(rows["used"], rows[metric.name], strict=True))
        for key, rows in shown[["key", "used", metric.name]].groupby("key")
    }
    for trial in drawn.sort_values(["won", "full"], kind="stable").to_dict("records"):
        points = thinned(lines[trial["key"]])
        if len(points) == 1:
            kind = "point" if trial["full"] else "stopped hollow"
            panel.marks.append(panel.point(look, *points[0], kind, key=trial["key"]))
            continue
        kind = f"{look} line{' winner' if trial['won'] else ''}"
        if not trial["full"]:
            kind = f"{look.name} stopped line thin"
        panel.marks.append(panel.line(kind, points, trial["key"]))
        if trial["state"] == "pruned":
            last_x, last_y = panel.to_x(points[-1][0]), panel.to_y(points[-1][1])
            cross = f"M{number(last_x - 2.5)} {number(last_y - 2.5)}l5 5m0 -5l-5 5"
            panel.marks.append(element("path", class_=f"{look.name} stopped line", d=cross))
    return panel


def _add_band(panel: Panel, reports: pd.DataFrame, metric: Metric, kind: str) -> None:
    """Add the middle 80 % of all trials at each point that enough of them have reached."""
    places = reports["used"].round(3)
    if places.nunique() > _VERTICES:
        # Trials report at different points; they are put together in equal steps.
        step = float(places.max()) / _VERTICES
        places = ((places / step).round() * step).round(3)
    at = reports.groupby(places)[metric.name]
    ends = pd.DataFrame({"high": at.quantile(0.9), "low": at.quantile(0.1)})[at.size() >= _BAND]
    if len(ends) > 1:
        x = [panel.to_x(float(used)) for used in ends.index]
        high, low = (list(zip(x, ends[end].map(panel.to_y), strict=True)) for end in ends)
        d = path([*high, *reversed(low)], closed=True)
        panel.marks.append(element("path", class_=kind, d=d))


def thinned(points: list[tuple[float, float]], most: int = _VERTICES) -> list[tuple[float, float]]:
    """Return at most `most` points of a line, its ends and corners among them.

    Largest triangle, three buckets (Steinarsson, 2013): of each bucket the point that spans the
    largest triangle with the point kept before it and the mean of the next bucket.
    """
    if len(points) <= most:
        return points
    kept = [points[0]]
    step = (len(points) - 2) / (most - 2)
    for k in range(most - 2):
        start, end, after = (int((k + j) * step) + 1 for j in range(3))
        following = points[end : min(after, len(points))] or [points[-1]]
        mean_x = sum(x for x, _ in following) / len(following)
        mean_y = sum(y for _, y in following) / len(following)
        (x0, y0) = kept[-1]
        kept.append(
            max(
                points[start:end],
                key=lambda p: abs((x0 - mean_x) * (p[1] - y0) - (x0 - p[0]) * (mean_y - y0)),
            )
        )
    return [*kept, points[-1]]
