"""Sharpness against accuracy, by the learning rate that both depend on."""

from __future__ import annotations

import pandas as pd

from analysis.charts.frame import Panel
from analysis.charts.metric import Metric
from analysis.charts.palette import looks
from analysis.charts.reach import reach
from analysis.charts.sample import part, sample
from analysis.charts.scales import padded
from analysis.charts.svg import visible
from analysis.descriptive import kendall_in_bins

CAPTION = (
    "Trials that were trained to the end; the darker, the larger the learning rate. tau: "
    "Kendall's correlation within four bins of the learning rate. The loss gap is at each "
    "variant's own radius, so panels are not comparable, and no row is ranked by it. The last "
    "panels have the repeats of the winners whose sharpness was measured."
)
_WORDS = {
    "sam_loss_gap": "loss gap at the perturbed point, nats",
    "sharp_lambda_max": "largest eigenvalue of the Hessian",
    "sharp_trace": "trace of the Hessian",
    "sharp_worst_rho": "worst loss gap within the radius",
    "sharp_worst_adaptive": "worst loss gap within the adaptive radius",
}
_BINS = 4
_FEWEST = 8
_MOST, _TOGETHER = 100, 600


def sharpness(trials: pd.DataFrame, repeats: pd.DataFrame) -> list[Panel]:
    """Return a panel per row and measure of the trials, and one per measure of the repeats."""
    return [*_of_trials(trials), *_of_repeats(repeats)]


def _of_trials(trials: pd.DataFrame) -> list[Panel]:
    names = [name for name in trials if name in _WORDS]
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


def _of_repeats(repeats: pd.DataFrame) -> list[Panel]:
    """Return a panel per measure with a mark for each repeat of a winner."""
    done = repeats[repeats["won"] & (repeats["state"] == "completed")]
    panels = []
    for name, words in _WORDS.items():
        measured = done.dropna(subset=[name, "test_acc"]) if name in done else done[:0]
        if len(measured) < 2 or "test_acc" not in done:
            continue
        values, scores = measured[name].astype(float), 100 * measured["test_acc"].astype(float)
        low, high, kind = reach(values, measured[:0])
        look = looks(measured["variant"])
        panel = Panel(
            title=f"{words}: {len(measured)} repeats",
            label=f"test accuracy of {len(measured)} repeats against their {words}",
            x=padded(low, high, kind),
            y=padded(float(scores.min()), float(scores.max())),
            x_kind=kind,
            x_label=words,
            y_label="test acc %",
            looks=[*look.values()],
        )
        for row, x, y in zip(measured.to_dict("records"), values, scores, strict=True):
            told = f"{row['row']}: {words} {x:.4g}, test {y:.2f} %"
            panel.marks.append(panel.point(look[row["variant"]], x, y, "point", told=told))
        panels.append(panel)
    return panels


def _panel(trials: pd.DataFrame, name: str, metric: Metric, most: int) -> Panel:
    first = trials.iloc[0]
    look = looks([first["variant"]])[first["variant"]]
    row, words = visible(first["row"], 30), _WORDS[name]
    values = trials[name].astype(float)
    low, high, scale = reach(values, trials[:0])
    bins = kendall_in_bins(list(values), list(trials["score"]), list(trials["knob.lr"]), _BINS)
    taus = ", ".join("-" if tau is None else f"{tau:+.2f}" for *_, tau in bins)
    drawn = sample(trials[trials["drawn"]], most)
    panel = Panel(
        title=f"{row}: tau {taus}",
        label=f"{metric.name} of {row} against {words}; tau by learning rate {taus}; "
        f"{len(drawn)} of {len(trials)} trials drawn",
        x=padded(low, high, scale),
        y=metric.ends(trials[metric.name], worst=0.05),
        x_kind=scale,
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
