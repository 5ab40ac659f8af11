"""Sharpness against accuracy, by the learning rate that both depend on."""

from __future__ import annotations

import pandas as pd

from analysis.charts.frame import Panel
from analysis.charts.metric import Metric
from analysis.charts.palette import looks
from analysis.charts.sample import part, sample
from analysis.charts.scales import padded
from analysis.charts.svg import visible
from analysis.descriptive import kendall_in_bins

CAPTION = (
    "Trials that were trained to the end; the darker, the larger the learning rate. tau: "
    "Kendall's correlation within four bins of the learning rate. The loss gap is at each "
    "variant's own radius, so panels are not comparable, and no row is ranked by it."
)
_WORDS = {"sam_loss_gap": "loss gap at the perturbed point, nats"}
_BINS = 4
_FEWEST = 8
_MOST, _TOGETHER = 100, 600


def sharpness(trials: pd.DataFrame) -> list[Panel]:
    """Return a panel per row and measure; none where no trial has one."""
    names = [name for name in trials if name in _WORDS or str(name).startswith("sharp_")]
    if "knob.lr" not in trials:
        return []
    done = trials[trials["full"] & (trials["knob.lr"] > 0)].dropna(subset=["score"])
    panels = []
    most = part(done["row"].nunique(), _MOST, _TOGETHER)
    for name in map(str, names):
        for _, own in done.dropna(subset=[name]).groupby("row", observed=True):
            if len(own) >= _FEWEST:
                panels.append(_panel(own, name, Metric.of(trials), most))
    return panels


def _panel(trials: pd.DataFrame, name: str, metric: Metric, most: int) -> Panel:
    first = trials.iloc[0]
    look = looks([first["variant"]])[first["variant"]]
    row, words = visible(first["row"], 30), _WORDS.get(name, name.replace("_", " "))
    values = trials[name].astype(float)
    wide = values.min() > 0 and values.max() / values.min() >= 10
    bins = kendall_in_bins(list(values), list(trials["score"]), list(trials["knob.lr"]), _BINS)
    taus = ", ".join("-" if tau is None else f"{tau:+.2f}" for *_, tau in bins)
    drawn = sample(trials[trials["drawn"]], most)
    panel = Panel(
        title=f"{row}: tau {taus}",
        label=f"{metric.name} of {row} against {words}; tau by learning rate {taus}; "
        f"{len(drawn)} of {len(trials)} trials drawn",
        x=padded(float(values.min()), float(values.max()), "log" if wide else "linear"),
        y=metric.ends(trials[metric.name], worst=0.05),
        x_kind="log" if wide else "linear",
        y_kind=metric.kind,
        x_label=words,
        y_label=metric.words,
        looks=[look],
    )
    rank = trials["knob.lr"].rank(method="first") - 1
    shade = (rank * _BINS / len(trials)).astype(int)
    for mark in drawn.assign(shade=shade).sort_values("won", kind="stable").to_dict("records"):
        kind = f"point shade{mark['shade']}" + (" big" if mark["won"] else "")
        place = mark[name], mark[metric.name]
        panel.marks.append(panel.point(look, *place, kind, key=mark["key"]))
    return panel
