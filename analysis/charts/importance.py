"""Importance of knobs, by values that the caller has computed."""

from __future__ import annotations

import pandas as pd

from analysis.charts.frame import Panel
from analysis.charts.palette import looks
from analysis.charts.svg import element, number, text, visible

CAPTION = (
    "PED-ANOVA: how much the best quarter of the trials differs from the others in each knob, by "
    "their values at the first rung, or at the end. From a few dozen trials it is a hint."
)
_BAR = 24.0
# Room for the figure beside a bar of 100 %.
_RIGHT = 1.2
_MOST = 12


def importance(values: pd.DataFrame, board: pd.DataFrame) -> list[Panel]:
    """Return a panel per row of the board.

    Args:
        values: The columns `run`, `space`, `knob`, `importance` (shares of 1), `trials` (how
            many they are from) and `at` (the budget at which these were valued, in words).
        board: Rows of one question.

    """
    panels = []
    for row in board.to_dict("records"):
        own = values[(values["run"] == row["run"]) & (values["space"] == row["space"])]
        if len(own):
            panels.append(_panel(own.sort_values("importance", ascending=False), row["variant"]))
    return panels


def _panel(own: pd.DataFrame, variant: str) -> Panel:
    name = visible(own["space"].iloc[0], 40)
    look = looks([variant])[variant]
    shown = own.head(_MOST)
    told = [f"{visible(knob, 30)} {_percent(share)}" for knob, share in _shares(shown)]
    panel = Panel(
        title=f"{name}: {int(own['trials'].iloc[0])} trials {own['at'].iloc[0]}",
        label=f"Importance of the knobs of {name}: {', '.join(told)}",
        x=(0.0, _RIGHT),
        y=(len(shown) - 0.5, -0.5),
        x_ticks=[(share, _percent(share)) for share in (0.0, 0.5, 1.0)],
        y_ticks=[(place, knob) for place, knob in enumerate(shown["knob"])],
        height=64 + _BAR * len(shown),
        left=104.0,
        looks=[look],
    )
    for place, (_, share) in enumerate(_shares(shown)):
        y, width = panel.to_y(place) - 7, panel.to_x(share) - panel.left
        box = f"M{number(panel.left)} {number(y)}h{number(width)}v14h{number(-width)}z"
        panel.marks.append(element("path", class_=f"{look} point", d=box, data_t=told[place]))
        at = {"x": panel.left + width + 5, "y": y + 11, "class_": "halo"}
        panel.over.append(element("text", text(_percent(share)), **at))
    return panel


def _shares(own: pd.DataFrame) -> list[tuple[str, float]]:
    return [(str(k), float(v)) for k, v in zip(own["knob"], own["importance"], strict=True)]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
