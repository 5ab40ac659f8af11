"""The page of columns, from their declarations: `python docs/make_reference.py` writes it."""

from __future__ import annotations

import textwrap

from samtune.record.columns import COLUMNS, Column
from samtune.record.tables import VERSIONS

_HEAD = """# Columns of the tables

`python docs/make_reference.py` makes this page from `samtune/record/columns.py`.
The meaning of a column is also in the file:
`pyarrow.parquet.read_schema(path).field("see").metadata`.

`!` marks a column that is never null. Floats are never NaN or infinite: a value that was not
measured, or has diverged, is null. Times are UTC, durations are seconds of a monotonic clock.
Accuracies are shares of 1. `see` is SGD-epoch equivalents: one plain epoch over the training split
is 1, an epoch of SAM is 2.

A reader accepts further columns and refuses a later version. The version is in the file's metadata
(`samtune.schema`), beside the versions, runs, and digests of spaces and data that a table comes
from.
"""

_ABOUT = {
    "trials": "One row per trial of the search. Beside these: `knob.NAME` for each knob, null "
    "where a trial does not use it, and a column for each metric that a trainable reported, at "
    "the last report. A metric whose name is taken is called `metric.NAME`.",
    "curves": "One row per report of a trial or repeat. Beside these: a column for each metric.",
    "selects": "One row per run of the select stage, which chooses the winners on validation.",
    "repeats": "One row per repeat of a winner on fresh seeds. Beside these: a column for each "
    "metric.",
    "leaderboard": "One row per run, question and space, for all its searches. Rows of one "
    "question have equal dataset, model, task, budget and metric. For a metric `m` that a run "
    "searched by, also `best_m`, `median_m`, `default_m`, `m_mean`, and `test_m_mean`, "
    "`test_m_sd`, `test_m_lo`, `test_m_hi`.",
    "pairs": "One row per pair of confirmed rows of one question.",
}


def document() -> str:
    """Return the page, as Markdown."""
    parts = [_HEAD]
    for table, columns in COLUMNS.items():
        lines = ["| Column | Type | Meaning |", "| --- | --- | --- |", *map(_line, columns)]
        about = textwrap.fill(_ABOUT[table], 99)
        parts.append(f"## {table}.parquet, version {VERSIONS[table]}\n\n{about}\n")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _line(column: Column) -> str:
    name = f"`{column.name}`" + ("" if column.nullable else " !")
    meaning = column.meaning.replace("|", "\\|")
    return f"| {name} | {column.type} | {meaning[0].upper() + meaning[1:]} |"
