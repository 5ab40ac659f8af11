"""Torn and changed files: each is found, and costs no more than it must."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from test_crash_points import SEARCH, content, killed_at, run_or_resume
from test_record import STUDY, fill

from samtune.record import tables
from samtune.record.export import export
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.sweep.search_stage import SearchStage

FLIPS = 500


def dump(folder: Path) -> list[tuple[Any, ...]]:
    """Return every row of every table of a record."""
    with closing(sqlite3.connect(folder / "sweep.db")) as db:
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        kept = [name for (name,) in tables if name != "sqlite_sequence"]
        return [(name, *row) for name in kept for row in db.execute(f"SELECT * FROM {name}")]


def flipped(raw: bytes, bit: int) -> bytes:
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def bits(raw: bytes) -> list[int]:
    return random.Random(0).sample(range(8 * len(raw)), FLIPS)


@pytest.fixture
def killed(memory: Path) -> Path:
    """A run as a killed process leaves it: the last commits are in the write-ahead log."""
    left = memory / "left"
    with Record.create(memory, "mine", [STUDY]) as record:
        fill(record)
        shutil.copytree(record.folder, left)
    (left / "sweep.db-shm").unlink()
    assert (left / "sweep.db-wal").stat().st_size > 100_000
    return left


def test_a_flipped_bit_in_the_pages_of_a_table_changes_no_value_unseen(
    runs: Path, record_property: Callable[[str, object], None]
) -> None:
    with Record.create(runs, "mine", [STUDY]) as record:
        fill(record, trials=30, epochs=20)
        path = next(path for path in export(record) if path.name == "curves.parquet")
    raw, whole, found = path.read_bytes(), tables.read(path, "curves"), 0
    # The footer follows the pages; its length and a magic word end the file.
    pages = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    for bit in bits(raw[4:pages]):
        path.write_bytes(flipped(raw, bit + 32))
        try:
            same = tables.read(path, "curves").equals(whole)
        except tables.TableError as error:
            assert "damaged" in str(error)
            found += 1
        else:
            # Such as the statistics in a page's header, which no reader of values uses.
            assert same
    assert found > 0.8 * FLIPS
    told = f"flipped bits found, Parquet pages ({FLIPS - found} changed no value)"
    record_property(told, f"{found} of {found}")


def test_a_flipped_bit_in_the_record_is_found(
    memory: Path, record_property: Callable[[str, object], None]
) -> None:
    with Record.create(memory, "mine", [STUDY]) as record:
        fill(record, trials=20, epochs=10)
    folder = memory / "mine"
    whole, raw, found = dump(folder), (folder / "sweep.db").read_bytes(), 0
    for bit in bits(raw):
        (folder / "sweep.db").write_bytes(flipped(raw, bit))
        try:
            with Record.open(memory, "mine") as record:
                record.verify()
        except RunError as error:
            assert "sweep.db" in str(error) and "\n" not in str(error)
            found += 1
        else:
            # One of those that say nothing: free space, or SQLite's own statistics.
            assert dump(folder) == whole
        for rest in ("sweep.db-wal", "sweep.db-shm"):
            (folder / rest).unlink(missing_ok=True)
    assert found > FLIPS / 5
    told = f"flipped bits found, record ({FLIPS - found} changed nothing that it says)"
    record_property(told, f"{found} of {found}")


def reopened(left: Path, log: bytes) -> Record:
    """Copy the run `left`, with `log` for its write-ahead log."""
    again = left.with_name("again")
    shutil.rmtree(again, ignore_errors=True)
    shutil.copytree(left, again)
    (again / "sweep.db-wal").write_bytes(log)
    return Record.open(again.parent, again.name)


def test_a_torn_log_costs_the_last_commit_and_nothing_else(
    killed: Path, record_property: Callable[[str, object], None]
) -> None:
    raw = (killed / "sweep.db-wal").read_bytes()
    with reopened(killed, raw) as record:
        *before, last = record.trials()
        reports = list(record.reports())
        assert last.state == "completed"
    for cut in range(1, 201):
        with reopened(killed, raw[:-cut]) as record:
            record.verify()
            *same, torn = record.trials()
            assert same == before and torn.state == "running" and torn.config == last.config
            assert list(record.reports()) == reports
            assert not record.events()
    record_property("torn logs that cost the last commit alone", "200 of 200")


def test_a_flipped_bit_in_the_log_is_found_or_costs_the_last_commit(
    killed: Path, record_property: Callable[[str, object], None]
) -> None:
    raw = (killed / "sweep.db-wal").read_bytes()
    with reopened(killed, raw) as record:
        whole = list(record.trials()), list(record.reports())
    lost = {"found": 0, "last commit": 0}
    for bit in bits(raw):
        try:
            with reopened(killed, flipped(raw, bit)) as record:
                record.verify()
                found = any(event["kind"] == "damaged" for event in record.events())
                trials, reports = list(record.trials()), list(record.reports())
        except RunError:
            found = True
        if not found and (trials, reports) != whole:
            assert reports == whole[1] and trials[:-1] == whole[0][:-1]
            lost["last commit"] += 1
        lost["found"] += found
    assert lost["found"] > FLIPS * 0.9
    changed = sum(lost.values())
    told = "flipped bits found, log of a killed process (the rest cost its last commit)"
    record_property(told, f"{lost['found']} of {changed}")


def test_torn_tables_are_told_and_made_anew(runs: Path) -> None:
    with Record.create(runs, "mine", [STUDY]) as record:
        fill(record, trials=2)
        path = next(path for path in export(record) if path.name == "curves.parquet")
        raw = path.read_bytes()
        for cut in range(1, 201):
            path.write_bytes(raw[:-cut])
            with pytest.raises(tables.TableError, match="damaged"):
                tables.read(path, "curves")
        export(record)
    assert path.read_bytes() == raw


def test_a_process_that_reads_a_table_and_ends_is_not_aborted(runs: Path) -> None:
    with Record.create(runs, "mine", [STUDY]) as record:
        fill(record, trials=2)
        path = next(path for path in export(record) if path.name == "curves.parquet")
    code = (
        "import sys; from pathlib import Path; from samtune.record import tables\n"
        "tables.read(Path(sys.argv[1]), 'curves').to_pylist()"
    )
    words = [sys.executable, "-c", code, str(path)]
    assert [subprocess.run(words, check=False).returncode for _ in range(5)] == [0] * 5


def test_a_run_that_finds_its_journal_torn_goes_on(
    memory: Path, record_property: Callable[[str, object], None]
) -> None:
    nobody = os.open(os.devnull, os.O_WRONLY)
    run_or_resume(memory / "unharmed", nobody)
    assert killed_at(60, memory / "killed", nobody, SEARCH)
    journal = memory / "killed" / "mine" / "optuna.journal"
    raw = journal.read_bytes()
    places = cuts(raw)
    with Record.open(memory / "killed", "mine") as record, record.lock():
        for cut in places:
            journal.write_bytes(raw[:cut])
            SearchStage(record, [SEARCH.space])
            assert trials_in(journal) == len(list(record.trials(stage="search")))
    journal.write_bytes(raw[: len(raw) // 2])
    run_or_resume(memory / "killed", nobody)
    assert content(memory / "killed" / "mine") == content(memory / "unharmed" / "mine")
    assert trials_in(journal) == 3
    record_property(
        "journals torn, found so by a run that went on", f"{len(places)} of {len(places)}"
    )


def cuts(raw: bytes) -> list[int]:
    """Return where a file is cut: 500 random places, or every one where there are fewer."""
    return sorted(random.Random(0).sample(range(len(raw)), min(500, len(raw))))


def trials_in(journal: Path) -> int:
    storage = JournalStorage(JournalFileBackend(str(journal)))
    return len(optuna.load_study(study_name="sgd", storage=storage).trials)


def test_a_damaged_checkpoint_is_told_by_the_sweep_that_goes_on(memory: Path) -> None:
    nobody = os.open(os.devnull, os.O_WRONLY)
    run_or_resume(memory / "unharmed", nobody)
    for number in itertools.count(20):
        runs = memory / str(number)
        assert killed_at(number, runs, nobody, SEARCH)
        if newest := [*runs.glob("mine/checkpoints/*/epoch-00002")]:
            break
    state = newest[0] / "state.pt"
    state.write_bytes(flipped(state.read_bytes(), 5000))
    run_or_resume(runs, nobody)
    with Record.open(runs, "mine") as record:
        (warning,) = [event for event in record.events() if event["kind"] == "warning"]
    assert f"{newest[0]} is damaged" in warning["detail"]
    assert warning["detail"].endswith("going on from the one before it")
    assert warning["trial"] == int(newest[0].parent.name)
    assert content(runs / "mine") == content(memory / "unharmed" / "mine")
