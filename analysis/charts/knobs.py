"""Knob slices: the metric of each trial against each searched knob."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from analysis.board import is_accuracy
from analysis.charts.frame import Panel
from analysis.charts.palette import looks
from analysis.charts.scales import Kind, accuracy_ends, padded
from analysis.charts.svg import visible

CAPTION = "Filled: trained to the end. Hollow: stopped, so measured earlier."
_MOST = 150


def knobs(trials: pd.DataFrame) -> list[Panel]:
    """Return a panel per searched knob; each variant has its colour and shape.

    At most 150 trials per panel are drawn, those with the best values.
    """
    names = dict.fromkeys(
        name for words in trials["knobs_searched"].unique() for name in json.loads(words)
    )
    metric = str(trials["metric"].iloc[0])
    known = trials.dropna(subset=[metric])
    panels = []
    for name in names:
        column = f"knob.{name}"
        if column in known and known[column].notna().any():
            panels.append(_panel(known.dropna(subset=[column]), name, metric))
    return panels


def _panel(trials: pd.DataFrame, name: str, metric: str) -> Panel:
    worst_first = trials["mode"].iloc[0] != "min"
    drawn = trials.sort_values(metric, ascending=worst_first).tail(_MOST)
    values = drawn[f"knob.{name}"]
    places, kind, ticks = _places(values)
    shown = visible(name, 30)
    scores = drawn[metric]
    low, high = float(scores.quantile(0.1)), float(scores.max())
    accuracy = is_accuracy(metric)
    panel = Panel(
        title=f"{shown}: {len(drawn)} of {len(trials)} trials",
        label=f"{metric} against the knob {shown}; {len(drawn)} of {len(trials)} trials drawn",
        x=padded(min(places), max(places), kind),
        y=accuracy_ends(low, high) if accuracy else padded(low, high),
        x_kind=kind,
        y_kind="error" if accuracy else "linear",
        x_label=f"{shown}{', log scale' if kind == 'log' else ''}",
        y_label=metric.replace("_", " ") + (" %" if accuracy else ""),
        x_ticks=ticks,
    )
    look = looks(trials["variant"])
    for place, row in zip(places, drawn.to_dict("records"), strict=True):
        filled = "point" if row["state"] == "completed" else "hollow"
        panel.marks.append(panel.point(look[row["variant"]], place, max(row[metric], low), filled))
    return panel


def _places(
    values: pd.Series[Any],
) -> tuple[list[float], Kind, list[tuple[float, str]] | None]:
    """Return a coordinate per value, the scale, and the ticks of a knob that is no number."""
    if values.dtype.kind in "if":
        numbers = [float(value) for value in values]
        wide = min(numbers) > 0 and max(numbers) / min(numbers) >= 10
        return numbers, "log" if wide else "linear", None
    words = sorted(map(str, values.unique()))[:12]
    places = [float(words.index(str(v))) if str(v) in words else -1.0 for v in values]
    return places, "linear", [(float(k), word) for k, word in enumerate(words)]
