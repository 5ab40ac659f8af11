"""Accuracy against compute: the best found by each search, and the winners on test."""

from __future__ import annotations

import pandas as pd

from analysis.charts.frame import LETTER, NARROW, Panel, apart
from analysis.charts.metric import Metric
from analysis.charts.palette import looks
from analysis.charts.svg import element, number

CAPTION = (
    "Step: the best completed trial so far; its mark ends the search. On the right: the winner "
    "on test, with its 95 % interval. Ring: the mean by which it was selected, on validation."
)
# More rows than these are told apart by the marks alone: their names would cover the lines.
_NAMED = 8
_WORST = 0.1
_STRIP = 190.0
_NARROW_STRIP = 100.0


def compute(trials: pd.DataFrame, board: pd.DataFrame, width: float) -> list[Panel]:
    """Return one panel with a step line per row, over the compute in the order of the ends."""
    metric = Metric.of(trials)
    steps = {}
    for name, own in trials.dropna(subset=["ended_at"]).groupby("row", observed=True):
        found = _best_so_far(own, metric)
        if not found.empty:
            steps[str(name)] = found
    if not steps:
        return []
    tested = _tested(board)
    best = pd.concat([found["best"] for found in steps.values()])
    # What the first trials of a search reach is left below the frame.
    chosen = board["select_mean"].astype(float).dropna()
    values = pd.concat([best[best >= best.quantile(_WORST)], chosen, *tested.values()])
    narrow = width < NARROW
    look = looks(trials["variant"])
    panel = Panel(
        title="",
        label=f"Best {metric.name} so far against see, for {', '.join(steps)}",
        x=(0.0, float(max(found["see"].max() for found in steps.values()))),
        y=metric.ends(values),
        y_kind=metric.kind,
        x_label="see spent" if narrow else "see spent by the search (SGD-epoch equivalents)",
        y_label=metric.words,
        width=width,
        height=300.0,
        strip=(_NARROW_STRIP if narrow else _STRIP) if tested else 0.0,
        looks=[*look.values()],
    )
    variants = dict(zip(trials["row"].astype(str), trials["variant"], strict=True))
    for name, found in steps.items():
        own_look = look[variants[name]]
        panel.marks.append(panel.line(f"{own_look} line step", _corners(found)))
        last = found.iloc[-1]
        told = f"{name}: best {metric.shown(last['best'])} after {last['see']:.0f} see"
        point = panel.point(own_look, last["see"], last["best"], "point big", 4.5, told=told)
        panel.over.append(point)
    if len(steps) <= _NAMED and not narrow:
        _add_names(panel, {name: found.iloc[-1] for name, found in steps.items()})
    _add_tests(panel, tested, board, metric)
    return [panel]


def _best_so_far(trials: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Return the best completed score after each trial, against the compute spent till then."""
    trials = trials.sort_values("ended_at", kind="stable")
    sign = -1 if trials["mode"].iloc[0] == "min" else 1
    best = sign * trials["score"].where(trials["full"]).cummax().ffill()
    found = pd.DataFrame({"see": trials["see"].cumsum(), "best": best}).dropna()
    # Only what changes the line, and its end.
    kept = found["best"].ne(found["best"].shift())
    kept.iloc[-1:] = True
    return found[kept]


def _corners(found: pd.DataFrame) -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = []
    for see, best in zip(found["see"], found["best"], strict=True):
        if points:
            points.append((see, points[-1][1]))
        points.append((see, best))
    return points


def _tested(board: pd.DataFrame) -> dict[int, pd.Series[float]]:
    """Return mean and interval on test of each confirmed row, by its place."""
    metric = str(board["test_metric"].iloc[0])
    columns = [f"{metric}_{end}" for end in ("mean", "lo", "hi")]
    return {
        place: row[columns].astype(float)
        for place, (_, row) in enumerate(board.iterrows())
        if not pd.isna(row[columns[0]])
    }


def _add_names(panel: Panel, ends: dict[str, pd.Series[float]]) -> None:
    """Name the lines where they end, above their marks and apart from each other."""
    wanted = [panel.to_y(end["best"]) - 7 for end in ends.values()]
    for (name, end), y in zip(ends.items(), apart(wanted, 12, panel.top), strict=True):
        x = panel.to_x(end["see"])
        # A search that ends early has no room on the left of its mark.
        early = x - panel.left < 16 + LETTER * len(name)
        place = {"text_anchor": "start" if early else "end", "class_": "halo"}
        panel.over.append(panel.words(name, x + (9 if early else -9), y, 200, **place))


def _add_tests(
    panel: Panel, tested: dict[int, pd.Series[float]], board: pd.DataFrame, metric: Metric
) -> None:
    """Draw the rows on test, the best on the left, in the strip beside the frame."""
    look = looks(board["variant"])
    start, end = panel.right + 20, panel.width - 10
    if not tested:
        return
    middle = {"text_anchor": "middle", "class_": "soft"}
    panel.over.append(panel.words("on test", (start + end) / 2, panel.bottom + 16, 120, **middle))
    base = f"M{number(start - 6)} {number(panel.bottom)}H{number(end)}"
    panel.over.append(element("path", class_="axis", d=base))
    for place, (row, values) in enumerate(tested.items()):
        x = start + (end - start) * (place + 0.5) / len(tested)
        mean, low, high = (float(value) for value in values)
        own = look[board["variant"].iloc[row]]
        told = f"{board['space'].iloc[row]}: mean on test {metric.shown(mean)}"
        if not pd.isna(low):
            top, bottom = (number(panel.to_y(value)) for value in (high, low))
            bar = f"M{number(x)} {top}V{bottom}"
            panel.over.append(element("path", class_=f"{own} line bar", d=bar))
            told += f", 95 % interval {metric.shown(low)} to {metric.shown(high)}"
        if not pd.isna(chosen := board["select_mean"].iloc[row]):
            words = f"{board['space'].iloc[row]}: selected by {metric.shown(chosen)} on validation"
            y = number(panel.to_y(max(float(chosen), panel.y[0])))
            ring = f"M{number(x - 4)} {y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0"
            panel.over.append(element("path", class_=f"{own} hollow", d=ring, data_t=words))
        at = panel.to_x.invert(x)
        panel.over.append(panel.point(own, at, mean, "point big", 5.0, told=told))
