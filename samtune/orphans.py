"""Ends what a killed sweep leaves behind: Ray's agents outlive a killed Ray by over a minute.

A process of its own waits for the end of its standard input, whose other end the sweep holds, and
which the kernel closes however the sweep dies. Then it kills each process that was started with
the sweep's mark in its environment. It needs /proc; where there is none, Ray's own time counts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MARK = "SAMTUNE_SCRATCH"
_ATTEMPTS = 20
_PAUSE_S = 0.1


@contextmanager
def ended_with_us(scratch: str) -> Iterator[None]:
    """Marks what is started inside the block; none of it outlives the block, or this process."""
    command = [sys.executable, __file__, scratch]
    # A session of its own: a Ctrl-C in a terminal is not for it.
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    before = os.environ.get(_MARK)
    os.environ[_MARK] = scratch
    try:
        yield
    finally:
        os.environ.pop(_MARK)
        if before is not None:
            os.environ[_MARK] = before
        guard.communicate()


def marked(scratch: str) -> list[int]:
    """The processes, other than this one, that were started with the mark of `scratch`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        # It may be gone by now, or another user's.
        with contextlib.suppress(OSError):
            words = (entry / "environ").read_bytes().split(b"\0")
            if f"{_MARK}={scratch}".encode() in words and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def _main(scratch: str) -> None:
    sys.stdin.buffer.read()
    for _ in range(_ATTEMPTS):
        left = marked(scratch)
        if not left:
            break
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    _main(sys.argv[1])
