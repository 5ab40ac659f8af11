"""The tables of a page: the leaderboard, the trials, the failures, and the origins."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pandas as pd

from analysis import board as words
from analysis import pareto
from analysis.charts.metric import Metric
from analysis.charts.palette import looks, mark
from analysis.charts.sample import Tables, sample
from analysis.charts.svg import element, text
from analysis.report.html import Row, name, table, tag

# Rows of the table of trials, over all questions of a page, and causes of failures.
_TRIALS = 400
_CAUSES = 30
_GOOD = frozenset({"completed", "pruned", "running", "paused"})
_FACTS = {
    "samtune_version": "samtune",
    "torch_version": "torch",
    "git_commit": "commit",
    "device": "device",
    "precision": "precision",
    "threads": "threads per trial",
    "search_alg": "search",
    "scheduler": "rungs",
    "hostname_hash": "machines (hashed)",
}


def key(variant: str) -> str:
    """Return the mark of a variant, for a reader who looks it up in a chart."""
    look = looks([variant])[variant]
    shape = element("path", class_=f"{look} point", d=mark(look.shape, 7, 7, 4.6))
    return element("svg", shape, class_="key", viewBox="0 0 14 14", aria_hidden="true")


def leaderboard(board: pd.DataFrame) -> str:
    """Return the rows of one question: the cells of `samtune leaderboard`, and the winners."""
    headings = words.headings(board)
    rows: list[Row] = []
    for row, cells, won in zip(
        board.to_dict("records"), words.cells(board), words.winners(board), strict=True
    ):
        place, label, *others = cells
        shown = [
            text(place),
            f"{key(row['variant'])}{name(label)}",
            *(text(c, 60) for c in others),
        ]
        # The name leads the row for a screen reader, and stays in sight on a phone.
        cells = [shown[1], shown[0], *shown[2:], text(won, 200)]
        rows.append((cells, {"class_": _look(row["variant"])}))
    order = [headings[1], headings[0], *headings[2:], "winning knobs"]
    plain = [k for k, word in enumerate(order) if word in {"verdict", "plan", "winning knobs"}]
    return table("Leaderboard", [text(word) for word in order], rows, plain)


def front(trials: pd.DataFrame) -> str:
    """Return the trials on the Pareto fronts of one question, the best by the first aim first."""
    rows: list[Row] = []
    shown = zip(pareto.front(trials).to_dict("records"), pareto.cells(trials), strict=True)
    for row, (label, *others) in shown:
        leading = f"{key(row['variant'])}{name(label)}"
        cells = [leading, *(text(cell, 200) for cell in others)]
        rows.append((cells, {"class_": _look(row["variant"]), "data_k": row["key"]}))
    heads = [text(word) for word in pareto.headings(trials)]
    return table("Pareto front", heads, rows, plain=(len(heads) - 1,))


def trials(tables: Tables, questions: int) -> str:
    """Return the winners, the failures, the best and some random others, and their numbers."""
    found = tables["trials"]
    most = max(24, _TRIALS // questions)
    failed = ~found["state"].isin(_GOOD)
    shown = sample(found[found["drawn"] | failed], most)
    shown = shown.sort_values("score", ascending=False, na_position="last", kind="stable")
    metric = Metric.of(found)
    rows: list[Row] = []
    for row in shown.to_dict("records"):
        rows.append(
            (
                [
                    f"{key(row['variant'])}{name(row['row'])}",
                    str(row["trial"]),
                    text(row["state"]) + (" ★" if row["won"] else ""),
                    words.score(row.get(metric.name), metric.name),
                    f"{row['see']:.1f}",
                    text(pareto.knobs(row), 300),
                ],
                {
                    "class_": f"{_look(row['variant'])}{'' if row['full'] else ' stopped'}",
                    "data_k": row["key"],
                    "data_s": row["state"],
                },
            )
        )
    count = f"{len(rows)} of {len(found)} trials"
    if len(rows) < len(found):
        count += "; `trials.parquet` has all"
    headings = ["row", "trial", "state", metric.words, "see", "knobs"]
    made = table(f"Trials: {count}", headings, rows, plain=(2, 5))
    states = [
        tag("option", text(state), value=state) for state in ["all", *sorted(set(shown["state"]))]
    ]
    find = tag("label", "Find " + tag("input", type="search", class_="find"))
    state = tag("label", "State " + tag("select", "".join(states), class_="state"))
    tools = tag("div", find + state, class_="tools scripted")
    note = f"{count}. ★ is the winner of its search."
    return tag("p", text(note, 200), class_="note") + tools + made


def failures(tables: Tables) -> str:
    """Return what failed by its cause; causes that differ in numbers alone are one."""
    trials, repeats = tables["trials"], tables["repeats"]
    parts = []
    bad = trials[~trials["state"].isin(_GOOD)]
    if bad.empty:
        parts.append(tag("p", "No trial has failed."))
    else:
        causes = bad["state"] + bad["state_reason"].map(
            lambda reason: re.sub(r"\d+(\.\d+)?", "0", reason)
        )
        groups = sorted((own for _, own in bad.groupby(causes, sort=False)), key=len, reverse=True)
        rows: list[Row] = []
        for own in groups[:_CAUSES]:
            first = own.iloc[0]
            counts = own["row"].value_counts()
            which = ", ".join(f"{row} {count}" for row, count in counts[counts > 0].items())
            reason = first["state_reason"] or "no cause is on record"
            cells = [str(len(own)), text(first["state"]), text(reason, 300), text(which, 200)]
            rows.append((cells, {}))
        said = f"{len(bad)} of {len(trials)} trials have failed, of {len(groups)} causes."
        if len(groups) > _CAUSES:
            said += f" The {_CAUSES} most frequent:"
        parts.append(tag("p", f"{said} Their compute counts, and none can win."))
        headings = ["trials", "state", "cause of the first", "rows"]
        parts.append(table("Failed trials by cause", headings, rows, plain=(1, 2, 3)))
    again = int((trials["attempts"] > 1).sum())
    if again:
        parts.append(tag("p", f"{again} trials were interrupted and continued."))
    lost = repeats[~repeats["state"].isin({"completed"})]
    if len(lost):
        states = ", ".join(
            f"{count} {state}" for state, count in lost["state"].value_counts().items()
        )
        parts.append(tag("p", text(f"Repeats that did not complete: {states}.", 200)))
    return "".join(parts)


def origin(trials: pd.DataFrame, spaces: Mapping[str, str]) -> str:
    """Return versions and devices, and the frozen text of each space."""
    rows: list[Row] = []
    for column, fact in _FACTS.items():
        known = [*map(str, trials[column].dropna().unique())]
        if known:
            rows.append(([fact, text(", ".join(known), 200)], {}))
    began = pd.to_datetime(trials["started_at"], utc=True).min()
    if not pd.isna(began):
        rows.append((["began", f"{began:%Y-%m-%d %H:%M} UTC"], {}))
    made = table("Versions", ["what", "which"], rows, plain=(1,), sorts=False)
    for label, frozen in spaces.items():
        lines = "\n".join(text(line, 400) for line in frozen.splitlines())
        made += tag("details", tag("summary", name(label, 100)) + tag("pre", lines, tabindex=0))
    return made


def _look(variant: str) -> str:
    return looks([variant])[variant].name
