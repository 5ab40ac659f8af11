"""The report of runs: one page of HTML, made from their tables."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.charts.reach import COLUMNS
from analysis.report.page import page
from analysis.tables import ROW, filled
from analysis.verdicts import compare
from samtune import durable
from samtune.api.tables import write_tables
from samtune.messages import unit
from samtune.record import tables
from samtune.record.reader import Reader
from samtune.record.rows import digest
from samtune.search.importance import importance

NAME = "report.html"
_TABLES = ("trials", "curves", "repeats")
# Trials of a row by which the importance of its knobs is estimated.
_MOST = 1000


@dataclass(frozen=True)
class Page:
    """A page of HTML, which shows itself in a notebook.

    Attributes:
        html: Its text.
    """

    html: str

    def save(self, path: str | Path) -> Path:
        """Write the page and return its path. Raises OSError."""
        place = Path(path)
        durable.replace(place, self.html.encode())
        return place

    def _repr_html_(self) -> str:
        # A frame of its own: the page's style and script must not meet those of the notebook.
        frame = 'sandbox="allow-scripts" width="100%" height="720"'
        return f'<iframe title="samtune report" {frame} srcdoc="{escape(self.html)}"></iframe>'


def report_of(records: Sequence[Reader], reload_s: int | None = None) -> Page:
    """Return the report of one or several runs as of now.

    Args:
        records: The runs.
        reload_s: After how many seconds the page loads itself again; None for never.

    Raises:
        RunError: A record is damaged.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch, str(k)) for k in range(len(records))]
        for record, folder in zip(records, folders, strict=True):
            folder.mkdir()
            write_tables(record, folder)
        return _page(folders, _spaces(records), reload_s)


def write_report(record: Reader, tell: Callable[[str], None]) -> None:
    """Write the report of a run beside its tables; a failure is told and is no error."""
    path = record.folder / NAME
    try:
        _page([record.folder], _spaces([record])).save(path)
    except Exception as error:
        path.unlink(missing_ok=True)
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        tell(f"{NAME} is not written ({first}); `samtune report {record.name}` tries again")


def chart_tables(folders: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """Return the tables that charts are drawn from, those of several runs as one.

    Args:
        folders: Folders that hold the tables of a run each.
    """
    found = {
        name: pd.concat(
            [tables.read(folder / f"{name}.parquet", name).to_pandas() for folder in folders],
            ignore_index=True,
        )
        for name in _TABLES
    }
    board, pairs = compare(folders)
    found |= {"leaderboard": board, "pairs": pairs}
    found["ranges"] = pd.DataFrame(_ranges(folders), columns=list(COLUMNS))
    return {**found, "importance": _importance(found["trials"], found["curves"])}


def _ranges(folders: Sequence[Path]) -> list[list[Any]]:
    """Return the ranges that each run searched, as far as its tables say them."""
    rows = []
    for folder in folders:
        facts = tables.metadata(folder / "trials.parquet")
        for knob, low, high, scale in json.loads(facts.get("samtune.ranges", "[]")):
            rows.append([facts["samtune.run"], knob, low, high, scale])
    return rows


def _importance(trials: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return the importance of the knobs of each row of the board, all at the first rung.

    Where there are no rungs, it is by the last value of the completed trials.
    """
    rows: list[dict[str, Any]] = []
    for row, own in filled(trials).groupby(ROW, sort=False, dropna=False):
        metric = str(own["metric"].iloc[0])
        if metric not in curves:
            continue
        at = curves[curves["trial_key"].isin(own["trial_key"]) & ~curves["superseded"]]
        first = at[at["rung"] == 0]
        values = first.groupby("trial_key")[metric].last().dropna()
        where = f"at {first['used'].median():.3g} {unit(own['budget_kind'].iloc[0])}"
        if values.empty:
            done = own[own["state"] == "completed"].set_index("trial_key")
            values, where = done[metric].dropna(), "at the end"
        values = values[sorted(values.index, key=digest)[:_MOST]]
        known = own.set_index("trial_key").loc[values.index]
        names = json.loads(own["knobs_searched"].iloc[0])
        columns = {name: known[f"knob.{name}"] for name in names if f"knob.{name}" in known}
        knobs = pd.DataFrame(columns).to_dict("records")
        given = [
            {str(name): value for name, value in each.items() if not pd.isna(value)}
            for each in knobs
        ]
        found = importance(given, list(map(float, values)), own["mode"].iloc[0] == "max")
        asked = dict(zip(ROW, row, strict=True))
        rows += [
            {**asked, "knob": knob, "importance": share, "trials": len(values), "at": where}
            for knob, share in found.items()
        ]
    return pd.DataFrame(rows, columns=[*ROW, "knob", "importance", "trials", "at"])


def _page(folders: Sequence[Path], spaces: Mapping[str, str], reload_s: int | None = None) -> Page:
    return Page(page(chart_tables(folders), spaces, reload_s))


def _spaces(records: Sequence[Reader]) -> dict[str, str]:
    """Return the frozen text of each space, by run and space.

    Several searches of a study's row differ in their seeds alone, so only the first has its text
    here. A row that is searched and is also run at its defaults has the text of the search.
    """
    found = {}
    for record in records:
        first = {s.name: s.space for s in record.studies() if not s.settings.get("search")}
        for name, text in first.items():
            if name.removesuffix("-default") not in first.keys() - {name}:
                found[f"{record.name}/{name}"] = text
    return found
