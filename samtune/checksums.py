"""Checksums for the rows of a SQLite file: SQLite has none, and reads a flipped bit as data.

The table `checksums` holds, for each table, how many rows it has and the sum of their CRC-32s, so
it does not grow. Triggers keep it, in the transaction that writes the rows. They are TEMP: each
connection makes its own, and the file stays one that any SQLite reads.
"""

from __future__ import annotations

import sqlite3
import zlib

_TABLE = "CREATE TABLE checksums (name TEXT PRIMARY KEY, rows INTEGER, sum INTEGER)"
_SCHEMA = "SELECT sql FROM main.sqlite_master ORDER BY name"


class DamagedError(sqlite3.DatabaseError):
    """What a SQLite file holds is not what was committed to it."""


def start(db: sqlite3.Connection) -> None:
    """Makes the table `checksums`, once all the other tables of a new file are made."""
    db.execute(_TABLE)
    db.executemany("INSERT INTO checksums VALUES (?, 0, 0)", [(name,) for name in _tables(db)])
    db.execute("INSERT INTO checksums VALUES ('sqlite_master', 0, ?)", (_schema_sum(db),))
    db.commit()


def keep(db: sqlite3.Connection) -> None:
    """Lets what this connection writes be counted. Raises sqlite3.DatabaseError."""
    db.create_function("row_sum", -1, _row_sum, deterministic=True)
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
    try:
        db.execute("BEGIN")
        # Also tells of an index that lacks a row, which no sum over the table sees.
        (found,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise DamagedError(found)
        if _kept(db, "sqlite_master") != (0, _schema_sum(db)):
            raise DamagedError("the schema has changed")
        for table in _tables(db):
            columns = ", ".join(_columns(db, table))
            rows = db.execute(f"SELECT COUNT(*), IFNULL(SUM(row_sum({columns})), 0) FROM {table}")
            if _kept(db, table) != tuple(rows.fetchone()):
                raise DamagedError(f"table {table} does not match its checksum")
    except DamagedError:
        raise
    except sqlite3.DatabaseError as error:
        raise DamagedError(str(error)) from error
    finally:
        db.rollback()


def _row_sum(*values: object) -> int:
    return zlib.crc32(repr(values).encode())


def _schema_sum(db: sqlite3.Connection) -> int:
    return _row_sum(*(sql for (sql,) in db.execute(_SCHEMA)))


def _kept(db: sqlite3.Connection, name: str) -> tuple[int, int] | None:
    row = db.execute("SELECT rows, sum FROM checksums WHERE name = ?", (name,)).fetchone()
    return row and tuple(row)


def _tables(db: sqlite3.Connection) -> list[str]:
    rows = db.execute(
        "SELECT name FROM main.sqlite_master WHERE type = 'table'"
        " AND name NOT LIKE 'sqlite_%' AND name != 'checksums' ORDER BY name"
    )
    return [name for (name,) in rows]


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA main.table_info({table})")]
