"""Checksums for the rows of a SQLite file, because SQLite itself reads a flipped bit as data.

The table `checksums` holds the number of rows of each table and the sum of their CRC-32s, so it
does not grow. Triggers update it in the transaction that writes the rows. They are TEMP triggers:
each connection makes its own, and any SQLite can read the file.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from pathlib import Path

_TABLE = "CREATE TABLE checksums (name TEXT PRIMARY KEY, rows INTEGER, sum INTEGER)"
_SCHEMA = "sqlite_master"
# Magic number, format, bytes per page, number of checkpoints, two salts, two checksums.
_LOG = struct.Struct(">8I")
# Page number, pages of the file after a commit (else 0), two salts; two checksums follow.
_FRAME = struct.Struct(">4I8x")


class DamagedError(sqlite3.DatabaseError):
    """A SQLite file whose content differs from what was committed to it."""


def start(db: sqlite3.Connection) -> None:
    """Make the table `checksums` of a new file. The caller commits."""
    db.create_function("row_sum", -1, _row_sum, deterministic=True)
    db.execute(_TABLE)
    sums = [(name, *_found(db, name)) for name in _tables(db)]
    db.executemany("INSERT INTO checksums VALUES (?, ?, ?)", [*sums, (_SCHEMA, *_schema(db))])


def keep(db: sqlite3.Connection) -> None:
    """Add the triggers to a connection that writes. Raise sqlite3.DatabaseError."""
    db.create_function("row_sum", -1, _row_sum, deterministic=True)
    # Otherwise INSERT OR REPLACE deletes a row without a trigger.
    db.execute("PRAGMA recursive_triggers = ON")
    for table in _tables(db):
        columns = _columns(db, table)
        new, old = (", ".join(f"{row}.{c}" for c in columns) for row in ("new", "old"))
        for event, rows, total in (
            ("insert", "+ 1", f"+ row_sum({new})"),
            ("update", "+ 0", f"+ row_sum({new}) - row_sum({old})"),
            ("delete", "- 1", f"- row_sum({old})"),
        ):
            db.execute(
                f"CREATE TEMP TRIGGER {table}_{event} AFTER {event} ON main.{table} BEGIN"
                f" UPDATE checksums SET rows = rows {rows}, sum = sum {total}"
                f" WHERE name = '{table}'; END"
            )


def verify(db: sqlite3.Connection) -> None:
    """Read the whole file. Raise DamagedError when a bit of its content has changed."""
    db.create_function("row_sum", -1, _row_sum, deterministic=True)
    try:
        db.execute("BEGIN")
        # Finds an index that lacks a row, which no sum over the table can show.
        (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise DamagedError(found.splitlines()[-1])
        kept = {name: tuple(sums) for name, *sums in db.execute("SELECT * FROM checksums")}
        if kept.get(_SCHEMA) != _schema(db):
            raise DamagedError("its schema does not match its checksum")
        for table in _tables(db):
            if kept.get(table) != _found(db, table):
                raise DamagedError(f"its table {table} does not match its checksum")
    except DamagedError:
        raise
    except sqlite3.DatabaseError as error:
        raise DamagedError(str(error).splitlines()[0]) from error
    finally:
        db.rollback()


def log_is_cut(path: Path, db: sqlite3.Connection) -> bool:
    """Return True if SQLite skipped commits in the write-ahead log of `path`.

    SQLite reads a log up to the first frame that does not match its checksum, because a crash
    tears it there (https://www.sqlite.org/walformat.html). Behind that frame a crash leaves at
    most one commit. More of them, or a frame of no log, show that a bit has changed. No process
    may write the file meanwhile.
    """
    log = path.with_name(path.name + "-wal")
    raw = log.read_bytes() if log.exists() else b""
    if len(raw) <= _LOG.size:
        return False
    magic, _, page, _, *own, first, second = _LOG.unpack_from(raw)
    if _log_sum(raw[: _LOG.size - 8], "<>"[magic & 1]) != (first, second):
        return True
    (_, read, _) = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    width = _FRAME.size + page
    commits, stranger = 0, False
    for start in range(_LOG.size + read * width, len(raw) - width + 1, width):
        _, pages, *salts = _FRAME.unpack_from(raw, start)
        if salts != own:
            # A frame of an earlier log, or a frame with a changed bit.
            stranger = True
        elif stranger:
            return True
        commits += salts == own and pages > 0
    return commits > 1


def _log_sum(raw: bytes, order: str) -> tuple[int, int]:
    first = second = 0
    for even, odd in struct.iter_unpack(f"{order}2I", raw):
        first = (first + even + second) % 2**32
        second = (second + odd + first) % 2**32
    return first, second


def _row_sum(*values: object) -> int:
    return zlib.crc32(repr(values).encode())


def _schema(db: sqlite3.Connection) -> tuple[int, int]:
    rows = db.execute("SELECT sql FROM main.sqlite_master ORDER BY name").fetchall()
    return len(rows), _row_sum(*(sql for (sql,) in rows))


def _found(db: sqlite3.Connection, table: str) -> tuple[int, int]:
    columns = ", ".join(_columns(db, table))
    query = f"SELECT COUNT(*), IFNULL(SUM(row_sum({columns})), 0) FROM main.{table}"
    rows, total = db.execute(query).fetchone()
    return rows, total


def _tables(db: sqlite3.Connection) -> list[str]:
    rows = db.execute(
        "SELECT name FROM main.sqlite_master WHERE type = 'table'"
        " AND name NOT LIKE 'sqlite_%' AND name != 'checksums' ORDER BY name"
    )
    return [name for (name,) in rows]


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA main.table_info({table})")]
