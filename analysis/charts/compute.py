"""Best validation score found against the compute that the search has spent."""

from __future__ import annotations

import pandas as pd

from analysis.board import is_accuracy
from analysis.charts.frame import Panel
from analysis.charts.palette import looks
from analysis.charts.scales import accuracy_ends, padded
from analysis.charts.svg import element, path, text

CAPTION = "Step: the best completed trial so far; its mark ends the search."


def compute(trials: pd.DataFrame) -> list[Panel]:
    """Return one panel with a step line per space, over the compute in the order of the ends."""
    metric = str(trials["metric"].iloc[0])
    accuracy = is_accuracy(metric)
    sign = 1 if trials["mode"].iloc[0] != "min" else -1
    steps = {}
    for name, own in trials.dropna(subset=["ended_at"]).groupby("space", sort=False):
        own = own.sort_values("ended_at")
        scores = own[metric].where(own["state"] == "completed")
        best = sign * (sign * scores).cummax().ffill()
        found = pd.DataFrame({"see": own["see"].cumsum(), "best": best}).dropna()
        if not found.empty:
            steps[str(name)] = found
    if not steps:
        return []
    values = pd.concat([found["best"] for found in steps.values()])
    low, high = float(values.min()), float(values.max())
    panel = Panel(
        title="Best validation score against the see of the search",
        label=f"Best {metric} so far against see, for {', '.join(steps)}",
        x=(0.0, float(max(found["see"].max() for found in steps.values()))),
        y=accuracy_ends(low - 0.005, high) if accuracy else padded(low, high),
        y_kind="error" if accuracy else "linear",
        x_label="see spent by the search (SGD-epoch equivalents)",
        y_label=metric.replace("_", " ") + (" %" if accuracy else ""),
        width=720.0,
        height=300.0,
    )
    variants = dict(zip(trials["space"], trials["variant"], strict=True))
    look = looks(variants.values())
    for name, found in steps.items():
        own_look = look[variants[name]]
        points: list[tuple[float, float]] = []
        for see, best in zip(found["see"], found["best"], strict=True):
            if points:
                points.append((panel.to_x(see), points[-1][1]))
            points.append((panel.to_x(see), panel.to_y(best)))
        panel.marks.append(element("path", class_=f"h{own_look.hue} line", d=path(points)))
        last = found.iloc[-1]
        panel.over.append(panel.point(own_look, last["see"], last["best"], size=4.5))
        panel.over.append(
            element(
                "text",
                text(name, 30),
                x=panel.to_x(last["see"]) - 8,
                y=points[-1][1] - 7,
                text_anchor="end",
            )
        )
    return [panel]
