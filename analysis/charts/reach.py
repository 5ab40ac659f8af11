"""The ends and the scale of a knob's axis: those of its space, or else those of its values."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from analysis.charts.scales import Kind

COLUMNS = ("run", "knob", "low", "high", "scale")


class Reach(NamedTuple):
    """The ends of an axis, and its scale."""

    low: float
    high: float
    kind: Kind


def reach(values: pd.Series[Any], ranges: pd.DataFrame) -> Reach:
    """Return what the axis of a knob spans: all values, and the whole range that was searched.

    Args:
        values: Numbers, one or more.
        ranges: The rows of the knob in the table of ranges, with the columns of `COLUMNS`. Without
            any, the scale is logarithmic if the positive values span a factor of ten.

    """
    low, high = float(values.min()), float(values.max())
    if ranges.empty:
        return Reach(low, high, "log" if low > 0 and high / low >= 10 else "linear")
    low, high = min(low, float(ranges["low"].min())), max(high, float(ranges["high"].max()))
    return Reach(low, high, "log" if low > 0 and (ranges["scale"] == "log").all() else "linear")


def of_knob(ranges: pd.DataFrame, trials: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the ranges that a knob has in the runs of these trials."""
    return ranges[(ranges["knob"] == name) & ranges["run"].isin(trials["run"].unique())]
