"""The made-up tables of the benchmark are whole: the leaderboard has a judged row per space."""

from __future__ import annotations

from pathlib import Path

from analysis.verdicts import compare
from benchmarks.scale_board import make_tables
from samtune.record import tables


def test_made_up_tables_become_a_judged_board(tmp_path: Path) -> None:
    make_tables(tmp_path, 220)
    board, pairs = compare([tmp_path], "v0")
    assert len(board) == 22 and len(pairs) == 22 * 21 / 2
    assert board["rank"].notna().all() and board["verdict"].notna().all()
    assert set(board["trials"]) == {10}
    assert tables.read(tmp_path / "curves.parquet", "curves").num_rows == 2200
