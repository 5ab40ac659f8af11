"""The logs of a run: what its trials printed, and the tracebacks of their failures.

A trial's log is the file `logs/00007.log` in the run's folder, named like its checkpoints by the
trial's number in the record. It holds the output of all attempts and ranks, and of the processes
that they started. On another machine the file has the same path there.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

LARGEST = 2**20
"""The size to which a log is cut, in bytes."""


def log_path(folder: Path, trial: int) -> Path:
    """Return the path of a trial's log.

    Args:
        folder: The run's folder.
        trial: The trial's number in the record (`TrialRow.trial`).
    """
    return folder / "logs" / f"{trial:05d}.log"


def shorten(path: Path) -> None:
    """Remove the older part of a log that has grown beyond `LARGEST`."""
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as log:
        size = log.seek(0, 2)
        if size <= LARGEST:
            return
        log.seek(size - LARGEST // 2)
        _, _, kept = log.read().partition(b"\n")
        log.seek(0)
        log.write(f"[the first {size - len(kept)} bytes were removed]\n".encode() + kept)
        log.truncate()


class Tail:
    """The end of a log that grows.

    Args:
        path: The path of the log, which need not exist yet.
        skip: Whether to leave out what is there already.
    """

    def __init__(self, path: Path, *, skip: bool = False) -> None:
        self._path = path
        self._read = self._size() if skip else 0

    def lines(self, *, to_end: bool = False) -> list[str]:
        """Return the whole lines since the last call; `to_end` includes an unfinished line."""
        # A shorter file was cut. Except for its last lines, its content is old.
        self._read = min(self._read, self._size())
        try:
            with self._path.open("rb") as log:
                log.seek(self._read)
                new = log.read()
        except FileNotFoundError:
            return []
        if not to_end:
            new = new[: new.rfind(b"\n") + 1]
        self._read += len(new)
        return new.decode(errors="replace").splitlines()

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0
