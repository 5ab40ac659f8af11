"""Checksums for the rows of a SQLite file: SQLite has none, and reads a flipped bit as data.

The table `checksums` holds, for each table, how many rows it has and the sum of their CRC-32s, so
it does not grow. Triggers keep it, in the transaction that writes the rows. They are TEMP: each
connection makes its own, and the file stays one that any SQLite reads.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from pathlib import Path

_TABLE = "CREATE TABLE IF NOT EXISTS checksums (name TEXT PRIMARY KEY, rows INTEGER, sum INTEGER)"
_SCHEMA = "sqlite_master"
# Magic number, format, bytes a page, count of checkpoints, two salts, two checksums.
_LOG = struct.Struct(">8I")
# Page number, pages of the file after a commit (else 0), two salts; its checksums follow.
_FRAME = struct.Struct(">4I8x")


class DamagedError(sqlite3.DatabaseError):
    """What a SQLite file holds is not what was committed to it."""


def start(db: sqlite3.Connection) -> None:
    """Makes the table `checksums`, or makes it anew after a change of the schema.

    The caller commits.
    """
    db.create_function("row_sum", -1, _row_sum, deterministic=True)
    db.execute(_TABLE)
    sums = [(name, *_found(db, name)) for name in _tables(db)]
    db.execute("DELETE FROM checksums")
    db.executemany("INSERT INTO checksums VALUES (?, ?, ?)", [*sums, (_SCHEMA, *_schema(db))])


def keep(db: sqlite3.Connection) -> None:
    """Lets what this connection writes be counted. Raises sqlite3.DatabaseError."""
    db.create_function("row_sum", -1, _row_sum, deterministic=True)
    # Without it, INSERT OR REPLACE deletes a row unseen.
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
    """Reads the whole file. Raises DamagedError when a single bit of what it holds has changed."""
    db.create_function("row_sum", -1, _row_sum, deterministic=True)
    try:
        db.execute("BEGIN")
        # Also tells of an index that lacks a row, which no sum over the table sees.
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
    """Whether SQLite passed over commits in the write-ahead log of `path`, which none writes now.

    It reads a log up to the first frame that does not match its checksum, for there a crash tears
    it (https://www.sqlite.org/walformat.html). Behind that frame a crash leaves one commit at
    most; more of them, or none of the log's, tell of a changed bit.
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
            # What is left of the log before this one; or a frame with a changed bit.
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
