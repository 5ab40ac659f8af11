"""Atomic writes into a run's folder: a crash at any moment leaves each whole or absent.

Files, and folders of files, are written under another name, fsynced and renamed. The record
commits with `transaction`. Only the private functions at the end touch the disk, so that the tests
can make the n-th of these operations fail.

This module needs only the standard library, so that a trial's worker can use it too.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_BLOCK = 2**20
_ERRNO = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO}


def write(path: Path, raw: bytes | memoryview) -> None:
    """Write and fsync a file that nobody reads yet. Raises OSError."""
    with path.open("wb") as file:
        _put(file, raw)
        _flush(file)


def copy(read: Callable[[int], bytes], path: Path) -> None:
    """Write and fsync the bytes of a stream's `read` as a file that nobody reads yet.

    Raises OSError.
    """
    with path.open("wb") as file:
        while block := read(_BLOCK):
            _put(file, block)
        _flush(file)


def replace(path: Path, raw: bytes) -> None:
    """Create a file, or replace it. Raises OSError, and then the old file is still there."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(aside, raw)
        rename(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def append(path: Path, lines: bytes) -> None:
    """Append whole lines, after removing the part of a line that a crash has left.

    Raises OSError.
    """
    with path.open("ab+") as file:
        file.seek(max(0, file.tell() - 1))
        if file.read() not in {b"", b"\n"}:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        _put(file, lines)
        _flush(file)


def rename(source: Path, target: Path) -> None:
    """Rename a file, or a folder of files, that was fsynced. Raises OSError."""
    if source.is_dir():
        sync_folder(source)
    _rename(source, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Fsync the names in a folder. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Remove a folder of files. Raises OSError."""
    for path in folder.iterdir():
        _unlink(path)
    _rmdir(folder)


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit all that the block does, or nothing of it.

    Raises:
        OSError: With the errno ENOSPC if the disk is full, and EIO if it fails.
    """
    try:
        # Python's sqlite3 would commit a change of the schema at once.
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            _commit(db)
        except BaseException:
            db.rollback()
            raise
    except sqlite3.OperationalError as error:
        code = _ERRNO.get(error.sqlite_errorcode & 0xFF)
        if code is None:
            raise
        raise OSError(code, str(error)) from error


def disk_refuses(error: BaseException) -> bool:
    """Return whether an error means that the disk is full, over quota, or broken."""
    if isinstance(error, sqlite3.Error):
        # The low byte is the kind; SQLITE_IOERR has thirty subkinds.
        code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
        return code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
    return isinstance(error, OSError) and error.errno in full


def _put(file: IO[bytes], raw: bytes | memoryview) -> None:
    file.write(raw)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    _sync(file.fileno())


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


def _rename(source: Path, target: Path) -> None:
    source.rename(target)


def _unlink(path: Path) -> None:
    path.unlink()


def _rmdir(folder: Path) -> None:
    folder.rmdir()


def _commit(db: sqlite3.Connection) -> None:
    db.commit()
