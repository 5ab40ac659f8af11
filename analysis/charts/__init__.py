"""Charts of runs: pure functions from tables to SVG, for `samtune plot`, notebooks and pages.

`KINDS` names every chart, `draw` makes one from the tables of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analysis.charts import (
    calibration,
    compute,
    curves,
    importance,
    knobs,
    leaderboard,
    pairs,
    parallel,
    pareto,
    rungs,
    sharpness,
    surface,
)
from analysis.charts.figure import Figure
from analysis.charts.frame import WIDTH, Panel
from analysis.charts.palette import Theme, looks
from analysis.charts.sample import By, Tables, by_question


@dataclass(frozen=True)
class Kind:
    """A kind of chart.

    Attributes:
        title: Its heading.
        sentence: What it shows.
        caption: What its marks mean.
        panels: Its panels from the tables of one question, for a width in pixels.

    """

    title: str
    sentence: str
    caption: str
    panels: Callable[[Tables, float], Sequence[Panel]]


KINDS = {
    "leaderboard": Kind(
        "Leaderboard",
        "mean on test of each confirmed row, with its interval and seeds",
        leaderboard.CAPTION,
        lambda t, width: leaderboard.leaderboard(t["leaderboard"], t["repeats"], width),
    ),
    "compute": Kind(
        "Accuracy against compute",
        "best validation score against the see spent by the search, and the winner on test",
        compute.CAPTION,
        lambda t, width: compute.compute(t["trials"], t["leaderboard"], width),
    ),
    "pairs": Kind(
        "All pairs",
        "verdict and difference of each pair of confirmed rows",
        pairs.CAPTION,
        lambda t, width: pairs.pairs(t["leaderboard"], t["pairs"], width),
    ),
    "pareto": Kind(
        "Pareto front",
        "full trials by the aims of their search, and those that no other beats in all of them",
        pareto.CAPTION,
        lambda t, _: pareto.pareto(t["trials"]),
    ),
    "curves": Kind(
        "Learning curves",
        "learning curve of each trial, with the rungs",
        curves.CAPTION,
        lambda t, _: curves.curves(t["trials"], t["curves"]),
    ),
    "knobs": Kind(
        "Knobs",
        "score of each trial against each searched knob",
        knobs.CAPTION,
        lambda t, _: knobs.knobs(t["trials"], t["ranges"]),
    ),
    "surface": Kind(
        "Learning rate and radius",
        "score at the first rung over the learning rate and the radius",
        surface.CAPTION,
        lambda t, _: surface.surface(t["trials"], t["curves"], t["ranges"]),
    ),
    "importance": Kind(
        "Which knobs mattered",
        "share of each knob in what separates the best quarter of the trials",
        importance.CAPTION,
        lambda t, _: (
            importance.importance(t["importance"], t["leaderboard"]) if "importance" in t else []
        ),
    ),
    "parallel": Kind(
        "Parallel coordinates",
        "knobs, rungs and last score of each trial as one line",
        parallel.CAPTION,
        lambda t, width: parallel.parallel(t["trials"], t["curves"], t["ranges"], width),
    ),
    "rungs": Kind(
        "Rungs",
        "trials that each rung judged, those it stopped, and its last cutoff",
        rungs.CAPTION,
        lambda t, _: rungs.rungs(t["trials"], t["curves"]),
    ),
    "sharpness": Kind(
        "Sharpness",
        "score of each trial against its sharpness, by the learning rate",
        sharpness.CAPTION,
        lambda t, _: sharpness.sharpness(t["trials"], t["repeats"]),
    ),
    "calibration": Kind(
        "Calibration",
        "calibration error and log-likelihood of the winners on test",
        calibration.CAPTION,
        lambda t, _: calibration.calibration(t["repeats"]),
    ),
}
_MARGIN = 14.0


def draw(
    kind: str,
    tables: Tables,
    width: float = 1080.0,
    theme: Theme = "light",
    by: By = "space",
) -> Figure:
    """Return a chart of a run.

    Args:
        kind: A name in `KINDS`.
        tables: The tables `trials`, `curves`, `repeats`, `leaderboard` and `pairs`.
        width: Width in pixels.
        theme: `light` or `dark`.
        by: What a panel or a line puts together: all trials of a space, a variant or a search.

    Raises:
        LookupError: The run has nothing to draw of this kind.

    """
    own = max(WIDTH, width - _MARGIN)
    parts = by_question(tables, by)
    groups = [(heading, KINDS[kind].panels(part, own)) for heading, part in parts]
    groups = [(heading, panels) for heading, panels in groups if panels]
    if not groups:
        raise LookupError(f"there is nothing to draw: {KINDS[kind].sentence}")
    shown = {look for _, panels in groups for panel in panels for look in panel.looks}
    key = {name: look for name, look in looks(_variants(parts)).items() if look in shown}
    return Figure(groups, KINDS[kind].caption, key, width, theme)


def _variants(parts: Sequence[tuple[str, Tables]]) -> list[str]:
    return [name for _, part in parts for name in part["leaderboard"]["variant"]]
