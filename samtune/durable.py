"""Every write into a run's folder: after a crash at any moment it is there whole or not at all.

Files are written aside, fsynced and renamed, folders of files too; the record commits by
`transaction`. Between the steps of a write lie its crash points, and a test makes the n-th one of
a process fail, by `fault("enospc", n)` or by `SAMTUNE_FAULT=enospc@n` in its environment:

    enospc    the disk is full from then on: half of what is being written arrives, then OSError
    eio       the same, but once, as a failing disk does it
    kill      half of it arrives, then the process is killed with SIGKILL

It knows only the standard library, so that a trial's worker can use it too.
"""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_BLOCK = 2**20
points = 0
_fault: tuple[str, int] | None = None


def fault(kind: str | None, number: int = 0) -> None:
    """Makes the crash point `number`, counted from 1 and from now, fail; None for none."""
    global points, _fault
    points, _fault = 0, (kind, number) if kind else None


def write(path: Path, raw: bytes) -> None:
    """Writes and fsyncs a file that nobody looks for yet. Raises OSError."""
    with path.open("wb") as file:
        _fill(file, raw)


def copy(read: Callable[[int], bytes], path: Path) -> None:
    """Writes and fsyncs a file that nobody looks for yet: what a stream's `read` gives.

    Raises OSError.
    """
    with path.open("wb") as file:
        while block := read(_BLOCK):
            _put(file, block)
        _flush(file)


def replace(path: Path, raw: bytes) -> None:
    """Puts `raw` in place of a file, if there is one. Raises OSError and leaves what was there."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(aside, raw)
        rename(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def append(path: Path, lines: bytes) -> None:
    """Appends whole lines, after cutting off the part of one that a crash has left.

    Raises OSError.
    """
    with path.open("ab+") as file:
        file.seek(max(0, file.tell() - 1))
        if file.read() not in {b"", b"\n"}:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        _fill(file, lines)


def rename(source: Path, target: Path) -> None:
    """Renames a file, or a folder of files, that was fsynced. Raises OSError."""
    if source.is_dir():
        sync_folder(source)
    _point()
    source.rename(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Fsyncs the names in a folder. Raises OSError."""
    _point()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Removes a folder of files that is no longer needed. Raises OSError."""
    for path in folder.iterdir():
        _point()
        path.unlink()
    _point()
    folder.rmdir()


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commits what the block does, or none of it.

    Raises OSError with the errno ENOSPC where the disk is full, and EIO where it fails.
    """
    try:
        with db:
            # Python's sqlite3 would commit a change of the schema at once.
            db.execute("BEGIN IMMEDIATE")
            yield
            _point()
    except sqlite3.OperationalError as error:
        code = _ERRNO.get(error.sqlite_errorcode & 0xFF)
        if code is None:
            raise
        raise OSError(code, str(error)) from error
    # Committed; whoever dies here never hears of it.
    _point(only="kill")


def disk_refuses(error: BaseException) -> bool:
    """Whether an error says that the disk takes no more: it is full, over quota, or broken."""
    if isinstance(error, sqlite3.Error):
        # The low byte is the kind; SQLITE_IOERR has thirty subkinds.
        code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
        return code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
    return isinstance(error, OSError) and error.errno in full


_ERRNO = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR: errno.EIO}


def _fill(file: IO[bytes], raw: bytes) -> None:
    _put(file, raw)
    _flush(file)


def _put(file: IO[bytes], raw: bytes) -> None:
    _point(lambda: os.write(file.fileno(), raw[: len(raw) // 2]))
    file.write(raw)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    _point()
    os.fsync(file.fileno())


def _point(half: Callable[[], object] | None = None, only: str | None = None) -> None:
    global points
    points += 1
    if _fault is None:
        return
    kind, number = _fault
    passed = points < number or (points > number and kind != "enospc")
    if passed or only not in {None, kind}:
        return
    if half is not None:
        half()
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    code = {"enospc": errno.ENOSPC, "eio": errno.EIO}[kind]
    raise OSError(code, os.strerror(code))


if "SAMTUNE_FAULT" in os.environ:
    _kind, _, _number = os.environ["SAMTUNE_FAULT"].partition("@")
    fault(_kind, int(_number))
