"""Leaderboard: the mean on test with its interval, and a ring per seed."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.board import is_accuracy, score
from analysis.charts.frame import LETTER, NARROW, Panel
from analysis.charts.palette import looks
from analysis.charts.scales import padded
from analysis.charts.svg import element, number

CAPTION = "Mark: mean on test over fresh seeds. Bar: 95 % Student t interval. Ring: one seed."
_ROW = 30.0
_LOW_ROW = 22.0
_FEW = 12


def leaderboard(board: pd.DataFrame, repeats: pd.DataFrame, width: float) -> list[Panel]:
    """Return one panel, the best row on top; none where nothing is confirmed."""
    rows = board[board["repeats"] > 0]
    if rows.empty:
        return []
    metric = str(rows["test_metric"].iloc[0])
    several = rows["run"].nunique() > 1
    names = [f"{row['run']}/{row['space']}" if several else row["space"] for row in _each(rows)]
    seeds = [_seeds(row, repeats, metric) for row in _each(rows)]
    unit = 100.0 if is_accuracy(metric) else 1.0
    ends = pd.concat([rows[f"{metric}_{end}"].dropna() for end in ("lo", "hi", "mean")])
    values = [*ends, *(value for own in seeds for value in own)]
    low, high = padded(unit * min(values), unit * max(values))
    each = _ROW if len(rows) <= _FEW else _LOW_ROW
    widest = 0.4 * width if width < NARROW else 240.0
    look = looks(rows["variant"])
    panel = Panel(
        title="",
        label=f"Leaderboard of {len(names)} rows by {metric}, the best on top",
        x=(low, high),
        y=(len(names) - 0.5, -0.5),
        x_label=f"{metric.replace('_', ' ')}{' %' if unit == 100 else ''}",
        y_ticks=[(place, name) for place, name in enumerate(names)],
        width=width,
        height=64 + each * len(names),
        left=min(widest, 16 + LETTER * max(map(len, names))),
        looks=[*look.values()],
    )
    for place, row in enumerate(_each(rows)):
        own = look[row["variant"]]
        y = panel.to_y(place)
        interval = f"mean {_shown(row[f'{metric}_mean'], metric)}"
        if not pd.isna(row[f"{metric}_lo"]):
            at = [panel.to_x(unit * row[f"{metric}_{end}"]) for end in ("lo", "hi")]
            caps = "".join(f"M{number(x)} {number(y - 5)}v10" for x in at)
            bar = f"M{number(at[0])} {number(y)}H{number(at[1])}{caps}"
            panel.marks.append(element("path", class_=f"{own} line bar", d=bar))
            words = [_shown(row[f"{metric}_{end}"], metric) for end in ("lo", "hi")]
            interval += f", 95 % interval {' to '.join(words)}"
        told = f"{names[place]}: {interval}"
        mean = unit * row[f"{metric}_mean"]
        panel.over.append(panel.point(own, mean, place, "point big", 5.0, told=told))
        rings = [(unit * value, _shown(value, metric)) for value in seeds[place]]
        panel.marks.append(panel.rings(own, rings, place, names[place]))
    return [panel]


def _seeds(row: dict[str, Any], repeats: pd.DataFrame, metric: str) -> list[float]:
    """Return the scores of the winners' completed repeats."""
    own = repeats[(repeats["run"] == row["run"]) & (repeats["space"] == row["space"])]
    own = own[own["won"] & (own["state"] == "completed")]
    return [float(value) for value in own[metric].dropna()] if metric in own else []


def _each(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def _shown(value: Any, metric: str) -> str:
    return score(value, metric) + (" %" if is_accuracy(metric) else "")
