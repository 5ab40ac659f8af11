"""Surface: the metric over the learning rate and the radius, one panel per row."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.charts.frame import Panel
from analysis.charts.knobs import searched
from analysis.charts.metric import Metric
from analysis.charts.palette import looks
from analysis.charts.reach import of_knob, reach
from analysis.charts.sample import part, sample
from analysis.charts.scales import Scale, padded
from analysis.charts.svg import element, number, visible

CAPTION = (
    "Darker is better, by the score at the first rung, where every trial has had the same budget. "
    "The surface is smoothed between trials, and blank far from any."
)
_RADII = ("rho", "rho_max", "rho_min")
_FEWEST = 8
_MOST, _TOGETHER = 100, 600
_COLUMNS, _ROWS = 44, 26
# Width of the smoothing, as a share of each axis, and the least weight that is drawn.
_WIDTH, _LEAST = 0.09, 0.35
LEVELS = 6


def surface(trials: pd.DataFrame, reports: pd.DataFrame, ranges: pd.DataFrame) -> list[Panel]:
    """Return a panel per row whose learning rate and radius were searched."""
    metric = Metric.of(trials)
    if metric.name not in reports:
        return []
    first = reports["used"].max() if reports["rung"].isna().all() else None
    at = reports[reports["rung"] == 0] if first is None else reports[reports["used"] == first]
    values = at.dropna(subset=[metric.name]).drop_duplicates("key", keep="last")
    known = trials.merge(values[["key", metric.name]], on="key", suffixes=("_last", ""))
    panels = []
    most = part(known["row"].nunique(), _MOST, _TOGETHER)
    for _, own in known.groupby("row", observed=True):
        names = searched(own)
        radius = next((name for name in _RADII if name in names), None)
        if "lr" in names and radius is not None:
            own = own.dropna(subset=["knob.lr", f"knob.{radius}"])
            own = own[(own["knob.lr"] > 0) & (own[f"knob.{radius}"] > 0)]
            if len(own) >= _FEWEST:
                panels.append(_panel(own, radius, metric, most, ranges))
    return panels


def _panel(
    trials: pd.DataFrame, radius: str, metric: Metric, most: int, ranges: pd.DataFrame
) -> Panel:
    first = trials.iloc[0]
    look = looks([first["variant"]])[first["variant"]]
    x, y = trials["knob.lr"].astype(float), trials[f"knob.{radius}"].astype(float)
    name = visible(first["row"], 40)
    drawn = sample(trials[trials["drawn"]], most)
    values = trials[metric.name].astype(float)
    best = metric.shown(values.max() if metric.rises(trials) else values.min())
    panel = Panel(
        title=f"{name}: best {best} at the first rung",
        label=f"{metric.name} of {name} over lr and {radius}; {len(drawn)} of {len(trials)} drawn",
        x=_ends(x, of_knob(ranges, trials, "lr")),
        y=_ends(y, of_knob(ranges, trials, radius)),
        x_kind="log",
        y_kind="log",
        x_label="lr, log scale",
        y_label=f"{radius}, log scale",
        looks=[look],
    )
    _add_levels(panel, trials, x, y, metric)
    for row in drawn.sort_values("won", kind="stable").to_dict("records"):
        kind = ("point" if row["full"] else "stopped hollow") + (" big" if row["won"] else "")
        size = 5.0 if row["won"] else 2.6
        place = row["knob.lr"], row[f"knob.{radius}"]
        panel.marks.append(panel.point(look, *place, kind, size, row["key"]))
    return panel


def _ends(values: pd.Series[float], ranges: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of a logarithmic axis."""
    above = ranges[ranges["low"] > 0]
    low, high, _ = reach(values, above)
    return padded(low, high, "log")


def _add_levels(
    panel: Panel, trials: pd.DataFrame, x: pd.Series[float], y: pd.Series[float], metric: Metric
) -> None:
    """Draw the smoothed surface as one path per level."""
    unit_x = Scale(*panel.x, 0.0, 1.0, "log")
    unit_y = Scale(*panel.y, 0.0, 1.0, "log")
    values = trials[metric.name].astype(float)
    even = Scale(*metric.ends(values), 0.0, 1.0, metric.kind)
    z = np.array([even(value) for value in values])
    if not metric.rises(trials):
        z = -z
    at_x, at_y = np.array([unit_x(v) for v in x]), np.array([unit_y(v) for v in y])
    columns = (np.arange(_COLUMNS) + 0.5) / _COLUMNS
    rows = (np.arange(_ROWS) + 0.5) / _ROWS
    # Gaussian weights of all trials at each cell (Nadaraya and Watson).
    near_x = np.exp(-0.5 * ((columns[:, None] - at_x) / _WIDTH) ** 2)
    near_y = np.exp(-0.5 * ((rows[:, None] - at_y) / _WIDTH) ** 2)
    weights = near_y @ near_x.T
    heights = (near_y * z) @ near_x.T / np.maximum(weights, 1e-12)
    drawn = weights >= _LEAST
    if not drawn.any():
        return
    low, high = np.quantile(heights[drawn], 0.1), heights[drawn].max()
    level = ((heights - low) / max(high - low, 1e-9) * LEVELS).astype(int).clip(0, LEVELS - 1)
    level[~drawn] = -1
    width = (panel.right - panel.left) / _COLUMNS
    height = (panel.bottom - panel.top) / _ROWS
    for k in range(LEVELS):
        boxes = []
        for row in range(_ROWS):
            top = panel.bottom - (row + 1) * height
            for start, end in _runs(level[row] == k):
                across = number((end - start) * width)
                left = number(panel.left + start * width)
                boxes.append(f"M{left} {number(top)}h{across}v{number(height + 0.1)}h-{across}z")
        if boxes:
            panel.under.append(element("path", class_=f"level l{k}", d="".join(boxes)))


def _runs(cells: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    """Return the first and the end of each run of true cells."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], cells.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
