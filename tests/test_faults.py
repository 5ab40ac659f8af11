"""Faults that a sweep must bear: damaged files, changed clocks, killed processes.

Where each row of the fault matrix is tested:
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from test_record import CONFIG, STUDY, message

from samtune import tables
from samtune.export import export
from samtune.record import Record, RunError
from samtune.search import Proposals
from samtune.space import SearchSpace

FLIPS = 500


def fill(record: Record, trials: int = 6, epochs: int = 4) -> None:
    for number in range(trials):
        trial = record.add_trial(0, "search", number, "sampled", CONFIG)
        attempt, _ = record.start_attempt(trial)
        for epoch in range(1, epochs + 1):
            record.add_report(trial.trial, attempt, message(epoch, number / 7 + epoch), "val_acc")
        record.end_trial(trial.trial, "completed", wall_s=1.5)


def dump(folder: Path) -> list[tuple[Any, ...]]:
    """Every row of every table of a record."""
    with closing(sqlite3.connect(folder / "sweep.db")) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE sql > ''")]
        kept = [name for name in names if not name.endswith(("_of_trial", "_sequence"))]
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


def test_a_flipped_bit_in_a_table_is_found(runs: Path) -> None:
    with Record.create(runs, "mine", [STUDY]) as record:
        fill(record)
        path = next(path for path in export(record) if path.name == "curves.parquet")
    raw = path.read_bytes()
    for bit in bits(raw):
        path.write_bytes(flipped(raw, bit))
        with pytest.raises(tables.TableError, match="damaged"):
            tables.read(path, "curves")


def test_a_flipped_bit_in_the_record_is_found(memory: Path) -> None:
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


def reopened(left: Path, log: bytes) -> Record:
    """The run `left` once more, with `log` for its write-ahead log."""
    again = left.with_name("again")
    shutil.rmtree(again, ignore_errors=True)
    shutil.copytree(left, again)
    (again / "sweep.db-wal").write_bytes(log)
    return Record.open(again.parent, again.name)


def test_a_torn_log_costs_the_last_commit_and_nothing_else(killed: Path) -> None:
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


def test_a_flipped_bit_in_the_log_is_found_or_costs_the_last_commit(
    killed: Path,
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


def test_a_torn_journal_is_mended_by_the_next_line(tmp_path: Path) -> None:
    space, journal = SearchSpace.load("sgd"), tmp_path / "optuna.journal"

    def ended(proposals: Proposals) -> None:
        proposal = proposals.ask()
        assert proposal is not None
        proposals.tell(proposal.number, "completed", {1: 0.5})

    for _ in range(2):
        ended(Proposals(space, journal))
    raw = journal.read_bytes()
    for cut in range(1, 201):
        journal.write_bytes(raw[:-cut])
        ended(Proposals(space, journal))
        storage = JournalStorage(JournalFileBackend(str(journal)))
        assert len(optuna.load_study(study_name="sgd", storage=storage).trials) == 2
