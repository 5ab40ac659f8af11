"""All pairs of the board: which row is better than which, and by how much."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.board import score
from analysis.charts.frame import LETTER, NARROW, Panel
from analysis.charts.svg import element, number, text

CAPTION = (
    "Each row against each column. + better, - worse, = tied, ? cannot be told apart; the "
    "number is the mean difference over common seeds. Verdicts hold for all pairs together (Holm)."
)
_SIGNS = {"better": "+", "worse": "-", "tied": "=", "underpowered": "?"}
_OTHER_WAY = {"better": "worse", "worse": "better"}
# The rows of a matrix; a larger one cannot be read, and pairs.parquet has all pairs.
_MOST = 24
_ROW = 26.0
# The room that a difference needs.
_WORDY = 52.0
_WIDEST = 92.0
# The width of a cell that a finger can hit.
_POINTED = 20.0


def pairs(board: pd.DataFrame, pairs: pd.DataFrame, width: float) -> list[Panel]:
    """Return a matrix with a row and a column for each of the first 24 confirmed rows."""
    confirmed = board[board["repeats"] > 0]
    rows = confirmed.head(_MOST)
    several = rows["run"].nunique() > 1
    keys = list(zip(rows["run"], rows["space"], strict=True))
    if len(keys) < 2 or pairs.empty:
        return []
    names = [f"{k + 1}  {'/'.join(key) if several else key[1]}" for k, key in enumerate(keys)]
    widest = 0.36 * width if width < NARROW else 240.0
    left = min(widest, 16 + LETTER * max(map(len, names)))
    each = min(_WIDEST, (width - left - 12) / len(keys))
    panel = Panel(
        title="" if len(rows) == len(confirmed) else f"{len(rows)} of {len(confirmed)} rows",
        label=f"Matrix of {len(keys)} of {len(confirmed)} rows; all pairs: {_told_all(pairs)}",
        x=(-0.5, len(keys) - 0.5),
        y=(len(keys) - 0.5, -0.5),
        x_ticks=[(k, str(k + 1)) for k in range(len(keys))],
        y_ticks=[(k, name) for k, name in enumerate(names)],
        width=left + 12 + each * len(keys),
        height=50 + _ROW * len(keys),
        left=left,
    )
    places = {key: k for k, key in enumerate(keys)}
    for row in pairs.to_dict("records"):
        a, b = (row["run_a"], row["space_a"]), (row["run_b"], row["space_b"])
        if a in places and b in places:
            _add(panel, row, places[a], places[b], each, 1.0)
            other = {**row, "verdict": _OTHER_WAY.get(row["verdict"], row["verdict"])}
            _add(panel, other, places[b], places[a], each, -1.0)
    return [panel]


def _add(panel: Panel, row: dict[Any, Any], a: int, b: int, width: float, sign: float) -> None:
    """Add the cell of `a` against `b`."""
    low, high = sorted(sign * row[end] for end in ("diff_lo", "diff_hi"))
    shown = [score(v, row["metric"], signed=True) for v in (sign * row["diff_mean"], low, high)]
    x, y = panel.to_x(b), panel.to_y(a)
    who = [(row[f"space_{side}"]) for side in ("ab" if sign > 0 else "ba")]
    told = f"{who[0]} against {who[1]}: {row['verdict']}, {shown[0]} ({shown[1]} to {shown[2]})"
    if not pd.isna(row["p_holm"]):
        told += f", p {row['p_holm']:.2g} by Holm"
    left, across = number(x - width / 2 + 1), number(width - 2)
    box = f"M{left} {number(y - 12)}h{across}v24h-{across}z"
    # What a small cell says is read on a wide screen.
    shown_too = told if width >= _POINTED else None
    kind = f"cell {row['verdict']}"
    panel.marks.append(element("path", class_=kind, d=box, data_t=shown_too))
    words = _SIGNS.get(row["verdict"], "")
    if width >= _WORDY and not pd.isna(row["diff_mean"]):
        words += f" {shown[0].lstrip('+-')}" if words in "+-" else f" {shown[0]}"
    panel.marks.append(element("text", text(words), x=x, y=y + 4, text_anchor="middle"))


def _told_all(pairs: pd.DataFrame) -> str:
    counts = pairs["verdict"].value_counts()
    return ", ".join(f"{count} {word}" for word, count in counts.items())
