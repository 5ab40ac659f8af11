"""Conditions and orders of a board's rows, and several sources on one board."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import full_run
import pandas as pd
import pytest

from analysis.selection import SelectionError, best_of_variants, order, where
from analysis.sources import RISK, ends, merged
from analysis.tables import QUESTION
from benchmarks.race import RESULT
from samtune.api.tables import write_tables
from samtune.record import tables
from samtune.record.record import Record

BOARD = pd.DataFrame(
    {
        **{word: ["x"] * 4 for word in QUESTION},
        "mode": ["max"] * 4,
        "metric": ["val_acc"] * 4,
        "space": ["sam", "sam-default", "asam", "sgd"],
        "variant": ["sam", "sam", "asam", "sgd"],
        "rank": pd.array([2, 1, None, 3], "Int16"),
        "test_acc_mean": [0.9, 0.95, None, 0.8],
        "select_mean": [0.9, None, 0.7, 0.6],
        "best_val_acc": [0.99, 0.8, 0.7, 0.6],
    }
)


@pytest.mark.parametrize(
    "condition, rows",
    [
        ("variant in (sam, asam)", [0, 1, 2]),
        ("variant in (sgd)", [3]),
        ("variant not in (sam, 'asam')", [3]),
        ("space == sam-default", [1]),
        ("rank <= 2", [0, 1]),
        ("rank != 1", [0, 2, 3]),
        ("test_acc_mean > 0.85 and not variant == sgd or rank == 3", [0, 1, 3]),
        ("test_acc_mean > -1", [0, 1, 3]),
    ],
)
def test_a_condition_keeps_the_rows_that_fulfil_it(condition: str, rows: list[int]) -> None:
    assert list(where(BOARD, condition).index) == rows


@pytest.mark.parametrize(
    "condition, words",
    [
        ("varient == sam", "did you mean 'variant'"),
        ("variant = sam", "cannot read the condition"),
        ("variant == 2x", "in quotes"),
        ("__import__('os').system('ls') == 0", "cannot compare by"),
        ("variant == open('f')", "no value"),
        ("variant < 3", "cannot be compared with 3"),
        ("rank is 3", "has no `is`"),
        ("1 < rank < 3", "cannot compare by"),
        ("(" * 5000 + "1", "cannot read"),
    ],
)
def test_a_condition_that_cannot_be_followed_ends_in_a_sentence(
    condition: str, words: str
) -> None:
    with pytest.raises(SelectionError, match=words) as caught:
        where(BOARD, condition)
    assert caught.value.exit_code == 2


def test_order_and_the_best_of_each_variant_by_validation() -> None:
    assert list(order(BOARD, "test_acc_mean").index) == [3, 0, 1, 2]
    assert list(order(BOARD, "-rank").index) == [3, 0, 1, 2]
    with pytest.raises(SelectionError, match="did you mean 'rank'"):
        order(BOARD, "rnk")
    # sam-default leads on test, and sam on validation.
    assert list(best_of_variants(BOARD)["space"]) == ["sam", "asam", "sgd"]


def written(folder: Path) -> Path:
    with Record.open(folder.parent, folder.name, read_only=True) as record:
        write_tables(record)
    return folder


def test_copies_of_a_run_count_once_and_runs_of_one_name_are_refused(tmp_path: Path) -> None:
    first = written(full_run.make(tmp_path / "here", "a"))
    copy, less = tmp_path / "copy", tmp_path / "less"
    for target in (copy, less):
        target.mkdir()
        for table in ("trials", "repeats"):
            path = first / f"{table}.parquet"
            rows = tables.read(path, table)
            rows = rows.slice(0, len(rows) - (target == less and table == "repeats"))
            tables.write(target / path.name, rows.schema, rows.to_batches(), None)
    folders, notes = merged([less, first])
    assert folders == [first] and "are the same run" in notes[0]
    other = written(full_run.make(tmp_path / "there", "a"))
    with pytest.raises(tables.TableError, match="two different runs are called a"):
        merged([first, other])
    second = written(full_run.make(tmp_path / "here", "b"))
    path = second / "trials.parquet"
    rows = tables.read(path, "trials")
    newer = rows.schema.with_metadata({**rows.schema.metadata, b"samtune.version": b"9"})
    tables.write(path, newer, rows.to_batches())
    folders, notes = merged([first, second])
    assert folders == [first, second] and "9 (b)" in notes[0]


def test_a_board_says_which_searches_ended_early_and_what_a_race_saved(tmp_path: Path) -> None:
    folder = full_run.make(tmp_path, "a", searches=2)
    with Record.open(folder.parent, folder.name) as record, record.lock():
        # The searches are sgd-0, sgd-1, sam-0 and sam-1.
        record.set_meta("ends", {"0": "target: reached", "1": "target: reached", "2": "time: up"})
        record.set_meta("raced", {"1": "sgd", "3": "sam"})
    early, race = ends([written(folder)])
    assert early == (
        "Searches of a that ended early: sgd-0, sgd-1 (target: reached); sam-0 (time: up)."
    )
    assert race.startswith("The race of a saved 2 searches of sgd, sam. It loses the best row in ")
    published = json.loads(RESULT.read_text())
    cells = [*published["cells"], *published["table"]["cells"]]
    worst = max(cell["best_lost"] for cell in cells)
    assert f"at most {RISK:.0%} of simulated studies" in race and worst <= RISK


def test_tables_become_a_leaderboard_without_the_engine(tmp_path: Path) -> None:
    folder = written(full_run.make(tmp_path, "a"))
    engine = {"ray", "torch", "optuna", "trainables", "samtune.sweep", "samtune.space"}
    code = (
        "import sys, analysis.__main__ as m; code = m.main()\n"
        f"print(sorted({sorted(engine)!r} & sys.modules.keys())); sys.exit(code)"
    ).replace(f"{sorted(engine)!r} &", f"set({sorted(engine)!r}) &")
    words = [
        str(folder),
        "-o",
        str(tmp_path / "l.parquet"),
        "--pairs",
        str(tmp_path / "p.parquet"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]" and "sam leads." in done.stdout
    board = tables.read(tmp_path / "l.parquet", "leaderboard").to_pandas()
    assert list(board["space"]) == ["sam", "sgd"]
    assert tables.read(tmp_path / "p.parquet", "pairs").num_rows == 1
    words = ["-c", code, str(tmp_path / "none")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "no such file" in done.stderr
