"""The tables of a run, made from its record."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.leaderboard import save
from analysis.verdicts import compare
from samtune.record.export import export
from samtune.record.reader import Reader


def write_tables(record: Reader, folder: Path | None = None) -> tuple[list[Path], pd.DataFrame]:
    """Write a run's tables, its leaderboard and the pairs of its rows.

    Args:
        record: The run.
        folder: Where to write them; without it, the run's own folder.

    Returns:
        The paths of all files, and the leaderboard.

    Raises:
        RunError: The record is damaged.
        OSError: A table cannot be written.
    """
    folder = record.folder if folder is None else folder
    written = [*export(record, folder)]
    board, pairs = compare([folder])
    for name, table in (("leaderboard", board), ("pairs", pairs)):
        written.append(folder / f"{name}.parquet")
        save(table, written[-1], [folder], name)
    return written, board
