"""Calibration of the repeats: how far their confidence is from their accuracy."""

from __future__ import annotations

import pandas as pd

from analysis.charts.frame import LETTER, Panel
from analysis.charts.palette import looks
from analysis.charts.scales import padded

CAPTION = "Mark: mean over the winners' repeats on test. Ring: one seed. Lower is better."
_SCORES = {
    "test_ece": "expected calibration error",
    "test_nll": "negative log-likelihood",
    "test_brier": "Brier score",
}
_ROW = 24.0


def calibration(repeats: pd.DataFrame) -> list[Panel]:
    """Return a panel per score of calibration that the repeats have."""
    done = repeats[repeats["won"] & (repeats["state"] == "completed")]
    return [
        _panel(done.dropna(subset=[name]), name, words)
        for name, words in _SCORES.items()
        if name in done and done[name].notna().any()
    ]


def _panel(repeats: pd.DataFrame, name: str, words: str) -> Panel:
    groups = [(str(row), own) for row, own in repeats.groupby("row", observed=True)]
    values = repeats[name].astype(float)
    look = looks(repeats["variant"])
    panel = Panel(
        title="",
        label=f"{words} on test of {len(groups)} rows",
        x=padded(float(values.min()), float(values.max())),
        y=(len(groups) - 0.5, -0.5),
        x_label=words,
        y_ticks=[(place, row) for place, (row, _) in enumerate(groups)],
        height=64 + _ROW * len(groups),
        left=min(120.0, 16 + LETTER * max(len(row) for row, _ in groups)),
        looks=[*look.values()],
    )
    for place, (row, own) in enumerate(groups):
        variant = look[own["variant"].iloc[0]]
        rings = [(value, f"{value:.4g}") for value in own[name].astype(float)]
        panel.marks.append(panel.rings(variant, rings, place, row))
        mean = float(own[name].mean())
        told = f"{row}: mean {mean:.4g}"
        panel.over.append(panel.point(variant, mean, place, "point big", 4.5, told=told))
    return panel
