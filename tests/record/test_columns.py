"""The declared columns: each has a meaning, and some run fills it."""

from __future__ import annotations

from pathlib import Path

import full_run
import pyarrow.parquet as pq

from samtune.api.tables import write_tables
from samtune.record.columns import COLUMNS
from samtune.record.record import Record
from samtune.record.tables import VERSIONS

# Filled where samtune is a git checkout.
CONDITIONAL = {"git_commit"}


def test_every_column_has_a_meaning_of_its_own() -> None:
    assert COLUMNS.keys() == VERSIONS.keys()
    for table, columns in COLUMNS.items():
        names = [column.name for column in columns]
        assert len(set(names)) == len(names), table
        meanings = [column.meaning for column in columns]
        assert len(set(meanings)) == len(meanings), table
        assert not [text for text in meanings if len(text) < 10 or text.endswith(".")], table


def test_nothing_unfilled_is_declared_and_files_hold_the_meanings(runs: Path) -> None:
    folders = [
        full_run.make(runs, "one"),
        full_run.make(runs, "three", searches=3),
        full_run.make(runs, "drawn", draws=64),
    ]
    for folder in folders:
        with Record.open(runs, folder.name, read_only=True) as record:
            write_tables(record)
    for table, columns in COLUMNS.items():
        found = [pq.read_table(folder / f"{table}.parquet") for folder in folders]
        empty = {c.name for c in columns if all(t[c.name].null_count == len(t) for t in found)}
        assert empty <= CONDITIONAL, table
        for column in columns:
            about = found[0].schema.field(column.name).metadata
            assert about[b"description"].decode() == column.meaning
