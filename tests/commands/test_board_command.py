"""`samtune leaderboard`: which rows are shown, in which form, from which folders."""

from __future__ import annotations

import json
from pathlib import Path

import full_run
import pytest

from samtune.cli import main
from samtune.record import tables


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_run.make(tmp_path_factory.mktemp("runs"), "r", searches=3)


def printed(run: Path, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["leaderboard", *words, "--runs", str(run.parent)])
    out, err = capsys.readouterr()
    assert ended.value.code == code, err
    return out + err if code else out


def test_rows_by_condition_order_variant_and_search(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(printed(run, capsys, "r", "--json", "--sort", "test_acc_mean"))["rows"]
    assert [row["space"] for row in rows] == ["sgd", "sam"]
    out = printed(run, capsys, "r", "--where", "variant in (sam)")
    assert "1 of 2 rows are shown." in out and "sgd won with" not in out
    out = printed(run, capsys, "r", "--by", "search")
    assert "sam search 2" in out and "leads" not in out
    rows = json.loads(printed(run, capsys, "r", "--json", "--by", "search"))["rows"]
    assert len(rows) == 6 and {row["searches"] for row in rows} == {1}
    out = printed(run, capsys, "r", "--by", "budget", "--format", "md")
    assert "| variant | 20 see per trial |" in out
    assert "did you mean 'rank'" in printed(run, capsys, "r", "--sort", "rnk", code=2)


def test_a_folder_with_tables_alone_is_a_run(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    printed(run, capsys, "r")
    for table in ("trials", "repeats", "selects"):
        (tmp_path / f"{table}.parquet").write_bytes((run / f"{table}.parquet").read_bytes())
    out = printed(run, capsys, str(tmp_path), "r")
    assert "are the same run" in out
    path = tmp_path / "board.parquet"
    assert not printed(run, capsys, str(tmp_path), "--format", "parquet", "-o", str(path))
    assert tables.read(path, "leaderboard").num_rows == 2
    assert "needs a file" in printed(run, capsys, "r", "--format", "parquet", code=2)
