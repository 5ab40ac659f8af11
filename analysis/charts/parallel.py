"""Parallel coordinates: the knobs, the rungs and the last value of each trial as one line."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.charts.frame import NARROW, Panel, label
from analysis.charts.knobs import placed, searched
from analysis.charts.metric import Metric
from analysis.charts.palette import looks
from analysis.charts.reach import of_knob
from analysis.charts.sample import sample
from analysis.charts.scales import Scale, Tick
from analysis.charts.svg import element, number

CAPTION = (
    "One line per trial. Coloured: the three best of each row, the winners thick. Below an axis: "
    "a knob that the variant does not have."
)
_MOST = 240
_BEST = 3
_KNOBS = 6
_NARROW_KNOBS = 3
_RADII = ("rho", "rho_max")
# Where a value lies that a trial does not have, in shares of the height of an axis.
_NONE = -0.09


def parallel(
    trials: pd.DataFrame, reports: pd.DataFrame, ranges: pd.DataFrame, width: float
) -> list[Panel]:
    """Return one panel; none where no trial was trained to the end."""
    metric = Metric.of(trials)
    full = trials[trials["full"]].dropna(subset=["score"])
    narrow = width < NARROW
    names = _joined(searched(trials))[: _NARROW_KNOBS if narrow else _KNOBS]
    if len(full) < 2 or not names:
        return []
    axes = [
        _axis(
            _values(trials, name),
            name,
            pd.concat([of_knob(ranges, trials, each) for each in _parts(name)]),
        )
        for name in names
    ]
    if not narrow and metric.name in reports:
        for rung, judged in reports[reports["rung"].notna()].groupby("rung"):
            at = judged.drop_duplicates("key", keep="last").set_index("key")[metric.name]
            axes.append(_score_axis(trials["key"].map(at), f"rung {rung:.0f}", metric))
    last = trials[metric.name].where(trials["full"])
    axes.append(_score_axis(last, "end", metric))
    drawn = sample(trials[trials["drawn"]], _MOST)
    look = looks(trials["variant"])
    panel = Panel(
        title="",
        label=f"Parallel coordinates of {', '.join(names)} and {metric.name}; "
        f"{len(drawn)} of {len(trials)} trials drawn",
        x=(0.0, len(axes) - 1.0),
        y=(_NONE - 0.05, 1.0),
        x_ticks=[(float(k), name) for k, (name, _, _) in enumerate(axes)],
        y_ticks=[],
        y_label=f"{len(drawn)} of {len(trials)} trials drawn; {metric.words} on the last axes",
        width=width,
        height=320.0,
        left=30.0,
        strip=26.0,
        looks=[*look.values()],
    )
    best = _best(full)
    order = drawn.assign(best=drawn["key"].isin(best))
    for index, row in order.sort_values(["best", "won"], kind="stable").iterrows():
        own = str(look[row["variant"]])
        kind = f"{own} line top" if row["best"] else f"{look[row['variant']].name} rest line"
        if row["won"]:
            kind = f"{own} line winner"
        if not row["full"]:
            kind += " stopped"
        heights = [places.get(index) for _, places, _ in axes]
        points = [
            (float(k), _NONE if pd.isna(height) else float(height))
            for k, height in enumerate(heights)
            # A stopped trial ends at the last rung that judged it.
            if k < len(names) or not pd.isna(height)
        ]
        panel.marks.append(panel.line(kind, points, row["key"]))
    for k, (_, _, ticks) in enumerate(axes):
        _add_axis(panel, k, ticks)
    return [panel]


def _joined(names: list[str]) -> list[str]:
    """Return the knobs with one axis for the radius, which variants call differently."""
    radii = [name for name in names if name in _RADII]
    others = [name for name in names if name not in _RADII]
    return [*([" or ".join(radii)] if radii else []), *others]


def _parts(name: str) -> list[str]:
    """Return the knobs that share an axis."""
    return name.split(" or ") if name.startswith(_RADII) else [name]


def _values(trials: pd.DataFrame, name: str) -> pd.Series[Any]:
    """Return a knob's values; of several radii, the one that the variant has."""
    first, *others = _parts(name)
    values = trials[f"knob.{first}"]
    for other in others:
        values = values.fillna(trials[f"knob.{other}"])
    return values


Axis = tuple[str, "pd.Series[float]", list[Tick]]
"""Its name, the height of each trial from 0 to 1, and its ticks at such heights."""


def _axis(values: pd.Series[float], name: str, ranges: pd.DataFrame) -> Axis:
    known = values.dropna()
    places, (low, high, kind), words = placed(known, ranges)
    scale = Scale(low, high, 0.0, 1.0, kind)
    ticks = scale.ticks(3) if words is None else words
    heights = places.map(scale)
    return name, heights, [(scale(value), word) for value, word in ticks]


def _score_axis(values: pd.Series[float], name: str, metric: Metric) -> Axis:
    known = values.dropna().astype(float)
    if known.empty:
        return name, known, []
    scale = Scale(*metric.ends(known, worst=0.05), 0.0, 1.0, metric.kind)
    return name, known.map(scale).clip(lower=0.0), [(scale(v), w) for v, w in scale.ticks(4)]


def _best(full: pd.DataFrame) -> set[int]:
    """Return the keys of the best trials of each row."""
    order = full.sort_values("score", ascending=False, kind="stable")
    return set(order.groupby("row", observed=True).head(_BEST)["key"])


def _add_axis(panel: Panel, k: int, ticks: list[Tick]) -> None:
    x = panel.to_x(float(k))
    up = f"M{number(x)} {number(panel.top)}V{number(panel.to_y(0.0))}"
    panel.over.append(element("path", class_="axis", d=up))
    for height, words in ticks:
        panel.over.append(label(words, x + 4, panel.to_y(height) + 4, 8, class_="soft halo"))
