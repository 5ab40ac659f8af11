"""Functions that make and open the SQLite file of a record."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from samtune import __version__, durable
from samtune.record import checksums
from samtune.record import folder as run_folder
from samtune.record.folder import RunError
from samtune.record.provenance import git_commit, versions
from samtune.record.rows import SCHEMA

FORMAT = 3


def create(
    path: Path,
    spaces: Sequence[Mapping[str, str]],
    asked: Mapping[str, Any],
    code: Mapping[str, str],
) -> None:
    """Make the file of a new run. Raise OSError or sqlite3.Error."""
    meta = {
        "format": FORMAT,
        "samtune_version": __version__,
        "versions": versions() | dict(code),
        "created_at": time.time(),
        "git_commit": git_commit(),
        "asked": dict(asked),
    }
    with closing(connect(path)) as db:
        db.executescript(SCHEMA)
        with durable.transaction(db):
            db.executemany(
                "INSERT INTO studies VALUES"
                " (:study, :name, :variant, :base, :space, :sha256, :settings)",
                [{**space, "study": k} for k, space in enumerate(spaces)],
            )
            db.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [(key, json.dumps(value)) for key, value in meta.items()],
            )
            checksums.start(db)


def reopen(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Connect to the file of a run. Raise RunError for another file or another format."""
    try:
        db = (connect_to_read if read_only else connect)(path)
        (found,) = db.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
        if json.loads(found) == FORMAT and not read_only:
            checksums.keep(db)
    except (sqlite3.DatabaseError, TypeError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise RunError(f"{path} is not a samtune record: {why}") from None
    if json.loads(found) != FORMAT:
        other = "a newer" if json.loads(found) > FORMAT else "an older"
        raise RunError(
            f"{path.parent} was written by {other} samtune: "
            f"it has format {found}, and this samtune reads {FORMAT}"
        )
    return db


def connect(path: Path) -> sqlite3.Connection:
    """Connect for writing; a missing file is made."""
    connection = sqlite3.connect(path, timeout=30)
    connection.row_factory = sqlite3.Row
    if run_folder.network_filesystem(path.parent) is None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    else:
        # WAL needs memory that all readers share, and machines share none. EXTRA, because here a
        # commit is the removal of the journal.
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = EXTRA")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Connect for reading; in WAL mode no writer waits for this connection."""
    journal = path.with_name("sweep.db-journal")
    if journal.exists() and not run_folder.is_locked(path.parent):
        # A process killed during a commit left half of it, which only a writer can roll back.
        with closing(connect(path)) as writer:
            writer.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    # On a read-only medium, SQLite cannot make its lock files.
    how = "mode=ro" if os.access(path.parent, os.W_OK) else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=30)
    connection.row_factory = sqlite3.Row
    return connection
