"""Rungs: what each one saw, and whom it stopped."""

from __future__ import annotations

import pandas as pd

from analysis.charts.frame import Panel
from analysis.charts.metric import Metric
from analysis.charts.palette import looks
from analysis.charts.sample import part, sample, searched_rows
from analysis.charts.svg import element, number, visible
from samtune.messages import unit

CAPTION = (
    "Filled: went on. Hollow grey: stopped. Bar: the last cutoff of the rung, which moves while "
    "trials report. What lies left of the frame is drawn on its edge."
)
_MOST, _TOGETHER = 150, 800
_ROW = 46.0
# Marks of one rung are spread over this share of its height, so that few cover each other.
_SPREAD = 0.6
_GOLDEN = 0.6180339887498949


def rungs(trials: pd.DataFrame, reports: pd.DataFrame) -> list[Panel]:
    """Return a panel per row; none for a run without rungs."""
    metric = Metric.of(trials)
    if metric.name not in reports:
        return []
    trials = searched_rows(trials)
    judged = reports[reports["rung"].notna() & reports["key"].isin(trials["key"])]
    judged = judged.dropna(subset=[metric.name])
    if judged.empty:
        return []
    ends = metric.ends(judged[metric.name], worst=0.05)
    groups = [*judged.groupby("row", observed=True)]
    most = part(len(groups), _MOST, _TOGETHER)
    return [_panel(trials[trials["row"] == name], own, metric, ends, most) for name, own in groups]


def _panel(
    trials: pd.DataFrame,
    judged: pd.DataFrame,
    metric: Metric,
    ends: tuple[float, float],
    most: int,
) -> Panel:
    first = trials.iloc[0]
    look = looks([first["variant"]])[first["variant"]]
    numbers = sorted(int(rung) for rung in judged["rung"].unique())
    at = {rung: judged[judged["rung"] == rung] for rung in numbers}
    seen = trials[trials["key"].isin(judged["key"])]
    shown = set(sample(seen[seen["drawn"]], most)["key"])
    name = visible(first["row"], 40)
    used = unit(first["budget_kind"])
    counts = [f"rung {k}: {_stopped(own)} of {len(own)} stopped" for k, own in at.items()]
    count = f"; {len(shown)} of {len(seen)} trials drawn" if len(shown) < len(seen) else ""
    panel = Panel(
        title=f"{name}{count}",
        label=f"Decisions at the rungs of {name}: {', '.join(counts)}{count}",
        x=ends,
        y=(len(numbers) - 0.5, -0.5),
        x_kind=metric.kind,
        x_label=f"{metric.words} at the rung",
        y_ticks=[(k, f"{at[r]['used'].median():g} {used}") for k, r in enumerate(numbers)],
        height=62 + _ROW * len(numbers),
        left=52.0,
        looks=[look],
    )
    for place, own in enumerate(at.values()):
        for row in own[own["key"].isin(shown)].to_dict("records"):
            x = max(float(row[metric.name]), panel.x[0])
            y = place + _SPREAD * (row["key"] * _GOLDEN % 1 - 0.5)
            kind = "stopped hollow" if row["decision"] == "stop" else "point"
            panel.marks.append(panel.point(look, x, y, kind, key=row["key"]))
        cutoffs = own["rung_cutoff"].dropna()
        if len(cutoffs):
            at_x = number(panel.to_x(max(float(cutoffs.iloc[-1]), panel.x[0])))
            bar = f"M{at_x} {number(panel.to_y(place - 0.4))}V{number(panel.to_y(place + 0.4))}"
            told = f"{name}, rung {numbers[place]}: {_stopped(own)} of {len(own)} stopped"
            told += f", last cutoff {metric.shown(cutoffs.iloc[-1])}"
            panel.over.append(element("path", class_="cutoff", d=bar, data_t=told))
    return panel


def _stopped(judged: pd.DataFrame) -> int:
    return int((judged["decision"] == "stop").sum())
