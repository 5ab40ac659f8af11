"""The tables of a run, made from its record."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.leaderboard import leaderboard, save
from samtune.record.export import export
from samtune.record.reader import Reader


def write_tables(record: Reader, folder: Path | None = None) -> tuple[list[Path], pd.DataFrame]:
    """Write a run's tables and its leaderboard.

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
    written = export(record, folder)
    board = leaderboard([folder])
    path = folder / "leaderboard.parquet"
    save(board, path, [folder])
    return [*written, path], board
