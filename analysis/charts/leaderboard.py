"""Leaderboard: the mean on test with its interval, and a ring per seed."""

from __future__ import annotations

import pandas as pd

from analysis.board import is_accuracy
from analysis.charts.frame import Panel
from analysis.charts.palette import looks
from analysis.charts.scales import padded
from analysis.charts.svg import element, number

CAPTION = "Mark: mean on test over fresh seeds. Bar: 95 % Student t interval. Ring: one seed."
_ROW = 34.0


def leaderboard(board: pd.DataFrame, repeats: pd.DataFrame) -> list[Panel]:
    """Return one panel per question, the best row on top; none where nothing is confirmed."""
    panels = []
    for _, rows in board[board["repeats"] > 0].groupby("task", sort=False):
        panels.append(_panel(rows, repeats))
    return panels


def _panel(rows: pd.DataFrame, repeats: pd.DataFrame) -> Panel:
    metric = str(rows["test_metric"].iloc[0])
    seeds = {}
    for row in rows.to_dict("records"):
        own = repeats[(repeats["run"] == row["run"]) & (repeats["space"] == row["space"])]
        own = own[(own["config_sha"] == row["config_sha"]) & (own["state"] == "completed")]
        seeds[row["run"], row["space"]] = own[metric].dropna().tolist()
    ends = [rows[f"{metric}_{end}"].dropna() for end in ("lo", "hi", "mean")]
    values = [*pd.concat(ends), *(value for own in seeds.values() for value in own)]
    names = list(rows["space"])
    unit = 100.0 if is_accuracy(metric) else 1.0
    low, high = padded(unit * min(values), unit * max(values))
    panel = Panel(
        title="Leaderboard",
        label=f"Leaderboard of {len(names)} rows by {metric}, the best on top",
        x=(low, high),
        y=(len(names) - 0.5, -0.5),
        x_label=f"{metric.replace('_', ' ')}{' %' if unit == 100 else ''}",
        y_ticks=[(place, name) for place, name in enumerate(names)],
        width=720.0,
        height=70 + _ROW * len(names),
        left=130.0,
    )
    look = looks(rows["variant"])
    for place, row in enumerate(rows.to_dict("records")):
        own_look = look[row["variant"]]
        y = panel.to_y(place)
        if not pd.isna(row[f"{metric}_lo"]):
            ends_x = [panel.to_x(unit * row[f"{metric}_{end}"]) for end in ("lo", "hi")]
            bar = f"M{number(ends_x[0])} {number(y)}H{number(ends_x[1])}"
            panel.marks.append(element("path", class_=f"h{own_look.hue} line", d=bar))
        for value in seeds[row["run"], row["space"]]:
            x = panel.to_x(unit * value)
            circle = f"M{number(x - 3)} {number(y)}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0"
            panel.marks.append(element("path", class_=f"h{own_look.hue} hollow", d=circle))
        mean = unit * row[f"{metric}_mean"]
        panel.over.append(panel.point(own_look, mean, place, size=5.0))
    return panel
