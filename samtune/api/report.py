"""The report of runs: one page of HTML, made from their tables."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from analysis.leaderboard import leaderboard
from analysis.report.page import page
from analysis.verdicts import judged
from samtune import durable
from samtune.api.tables import write_tables
from samtune.record import tables
from samtune.record.reader import Reader

NAME = "report.html"
_TABLES = ("trials", "curves", "repeats")


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
    board, pairs = judged(leaderboard(folders), folders)
    return {**found, "leaderboard": board, "pairs": pairs}


def _page(folders: Sequence[Path], spaces: Mapping[str, str], reload_s: int | None = None) -> Page:
    return Page(page(chart_tables(folders), spaces, reload_s))


def _spaces(records: Sequence[Reader]) -> dict[str, str]:
    """Return the frozen text of each space, by run and space."""
    return {
        f"{record.name}/{study.name}": study.space
        for record in records
        for study in record.studies()
    }
