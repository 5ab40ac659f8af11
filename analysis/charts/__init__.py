"""Charts of runs: pure functions from tables to SVG, for `samtune plot`, notebooks and pages.

`KINDS` names every chart, `draw` makes one from the tables of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.charts import compute, curves, knobs, leaderboard
from analysis.charts.figure import Figure
from analysis.charts.frame import Panel
from analysis.charts.palette import Theme
from analysis.tables import filled

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Kind:
    """A kind of chart: its sentence, the meaning of its marks, and its panels from the tables."""

    sentence: str
    caption: str
    panels: Callable[[Tables], Sequence[Panel]]


KINDS = {
    "leaderboard": Kind(
        "mean on test of each confirmed row, with its interval and seeds",
        leaderboard.CAPTION,
        lambda t: leaderboard.leaderboard(t["leaderboard"], t["repeats"]),
    ),
    "compute": Kind(
        "best validation score against the see spent by the search",
        compute.CAPTION,
        lambda t: compute.compute(t["trials"]),
    ),
    "curves": Kind(
        "learning curve of each trial, with the rungs",
        curves.CAPTION,
        lambda t: curves.curves(t["trials"], t["curves"], t["leaderboard"]),
    ),
    "knobs": Kind(
        "score of each trial against each searched knob",
        knobs.CAPTION,
        lambda t: knobs.knobs(t["trials"]),
    ),
}


def draw(kind: str, tables: Tables, width: float = 1080.0, theme: Theme = "light") -> Figure:
    """Return a chart of a run.

    Args:
        kind: A name in `KINDS`.
        tables: The tables `trials`, `curves`, `repeats` and `leaderboard`.
        width: Width in pixels.
        theme: `light` or `dark`.

    Raises:
        LookupError: The run has nothing to draw of this kind.

    """
    whole = {**tables, "trials": filled(tables["trials"])}
    panels = KINDS[kind].panels(whole)
    if not panels:
        raise LookupError(f"there is nothing to draw: {KINDS[kind].sentence}")
    return Figure(panels, KINDS[kind].caption, width, theme)
