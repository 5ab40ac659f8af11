"""Knob slices: the metric of each trial against each searched knob."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from analysis.charts.frame import Panel
from analysis.charts.metric import Metric
from analysis.charts.palette import looks
from analysis.charts.reach import Reach, of_knob, reach
from analysis.charts.sample import sample
from analysis.charts.scales import Tick, padded
from analysis.charts.svg import visible

CAPTION = (
    "Filled: trained to the end. Hollow: stopped, so measured earlier. Line: the best found in "
    "each eighth of the range. What lies below the frame is drawn on its edge."
)
_MOST = 150
_PARTS = 8
_CHOICES = 12
_FIRST = ("rho", "rho_max", "lr", "weight_decay")


def searched(trials: pd.DataFrame) -> list[str]:
    """Return the searched knobs that trials have, the radius and the learning rate first."""
    lists = (json.loads(words) for words in trials["knobs_searched"].unique())
    names = dict.fromkeys(name for words in lists for name in words)
    known = [name for name in names if f"knob.{name}" in trials]
    known = [name for name in known if trials[f"knob.{name}"].notna().any()]
    return sorted(known, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))


def knobs(trials: pd.DataFrame, ranges: pd.DataFrame) -> list[Panel]:
    """Return a panel per searched knob; each variant has its colour and shape.

    Args:
        trials: Trials of one question.
        ranges: The ranges of knobs, with the columns of `reach.COLUMNS`.

    """
    metric = Metric.of(trials)
    known = trials.dropna(subset=["score"])
    return [
        _panel(known.dropna(subset=[f"knob.{name}"]), name, metric, of_knob(ranges, known, name))
        for name in searched(known)
    ]


def _panel(trials: pd.DataFrame, name: str, metric: Metric, ranges: pd.DataFrame) -> Panel:
    places, (low, high, kind), ticks = placed(trials[f"knob.{name}"], ranges)
    drawn = sample(trials[trials["drawn"]], _MOST)
    shown = visible(name, 30)
    look = looks(trials["variant"])
    count = f"{len(drawn)} of {len(trials)} trials"
    panel = Panel(
        title=f"{shown}: {count}",
        label=f"{metric.name} against the knob {shown}; {count} drawn",
        x=padded(low, high, kind),
        y=metric.ends(trials[metric.name], worst=0.1),
        x_kind=kind,
        y_kind=metric.kind,
        x_label=f"{shown}{', log scale' if kind == 'log' else ''}",
        y_label=metric.words,
        x_ticks=ticks,
        looks=[*look.values()],
    )
    if ticks is None:
        _add_profiles(panel, trials.assign(place=places), metric)
    drawn = drawn.assign(place=places[drawn.index]).sort_values(["won", "full"], kind="stable")
    for row in drawn.to_dict("records"):
        y = float(row[metric.name])
        if metric.kind == "error":
            y = max(y, panel.y[0])
        words = ("point" if row["full"] else "stopped hollow") + (" big" if row["won"] else "")
        size = 5.0 if row["won"] else 3.2
        mark = panel.point(look[row["variant"]], row["place"], y, words, size, row["key"])
        panel.marks.append(mark)
    return panel


def placed(
    values: pd.Series[Any], ranges: pd.DataFrame
) -> tuple[pd.Series[float], Reach, list[Tick] | None]:
    """Return a coordinate per value, the axis, and the ticks of a knob that is no number."""
    if values.dtype.kind in "if":
        return values.astype(float), reach(values, ranges), None
    words = sorted(map(str, values.unique()))[:_CHOICES]
    places = [float(words.index(str(v))) if str(v) in words else -1.0 for v in values]
    ticks = [(float(k), word) for k, word in enumerate(words)]
    return pd.Series(places, index=values.index), Reach(min(places), max(places), "linear"), ticks


def _add_profiles(panel: Panel, trials: pd.DataFrame, metric: Metric) -> None:
    """Join the best completed trial of each eighth of the range, for each variant."""
    full = trials[trials["full"]]
    share = (full["place"].map(panel.to_x) - panel.left) / (panel.right - panel.left)
    part = (share * _PARTS).astype(int).clip(0, _PARTS - 1)
    look = looks(trials["variant"])
    for variant, own in full.groupby("variant", sort=False):
        best = own.loc[own.groupby(part[own.index])["score"].idxmax()].sort_values("place")
        if len(best) > 1:
            points = list(zip(best["place"], best[metric.name], strict=True))
            panel.under.append(panel.line(f"{look[str(variant)]} line faint", points))
