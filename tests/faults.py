"""Faults of the disk: each operation of `samtune.durable` is a point at which a write can fail.

`inject("enospc", n)` lets point n fail, counted from 1 and from now; `python faults.py enospc n
WORDS...` does so in a `samtune WORDS...`. The kinds:

    enospc    the disk is full from then on: half of what is being written arrives, then OSError
    eio       the same, but once, as a failing disk does it
    kill      half of it arrives, then the process is killed with SIGKILL
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import IO, Any

from samtune import durable

_OPERATIONS: dict[str, Callable[..., None]] = {
    name: getattr(durable, name)
    for name in ("_put", "_sync", "_rename", "_unlink", "_rmdir", "_commit")
}
count = 0


def at_each_point(fail: Callable[[Callable[[], object] | None], object] | None) -> None:
    """Call `fail` at each point from now on, with what writes half a block; None ends it."""
    global count
    count = 0
    for name, operation in _OPERATIONS.items():
        replaced = partial(_before, fail, name) if fail else operation
        setattr(durable, name, replaced)


def _before(fail: Callable[..., object], name: str, *words: Any) -> None:
    global count
    count += 1
    fail(partial(_half, *words) if name == "_put" else None)
    _OPERATIONS[name](*words)
    if name == "_commit":
        # Committed; whoever dies here never hears of it.
        count += 1
        fail(_committed)


def _half(file: IO[bytes], raw: bytes) -> None:
    os.write(file.fileno(), raw[: len(raw) // 2])


def _committed() -> None:
    """Mark a point after the commit, at which no write can fail."""


def inject(kind: str | None, number: int = 0) -> None:
    """Let the point `number`, counted from 1 and from now, fail; None for none."""
    at_each_point(partial(_fail, kind, number) if kind else None)


def _fail(kind: str, number: int, half: Callable[[], object] | None) -> None:
    passed = count < number or (count > number and kind != "enospc")
    if passed or (half is _committed and kind != "kill"):
        return
    if half is not None:
        half()
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    code = {"enospc": errno.ENOSPC, "eio": errno.EIO}[kind]
    raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    from samtune.cli import main

    inject(sys.argv[1], int(sys.argv[2]))
    main(sys.argv[3:])
