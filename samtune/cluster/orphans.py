"""End the processes of a killed sweep, because Ray's agents outlive a killed Ray by over a minute.

A separate process waits for the end of its standard input. The sweep holds the other end, which
the kernel closes however the sweep dies. Then the process kills every process that has a file in
the sweep's folder open for writing: all processes of Ray have a log there, and the daemons of MPS
too. This needs /proc. Without it, Ray's processes end later by themselves.
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

_ATTEMPTS = 50
_PAUSE_S = 0.1


@contextmanager
def ended_with_us(scratch: str) -> Iterator[None]:
    """End every process that writes in `scratch`, after the block or when this process dies."""
    command = [sys.executable, __file__, scratch]
    # In a session of its own, a Ctrl-C in the terminal does not reach it.
    guard = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    # It goes on in a child of its own, which holds its input and its output.
    guard.wait()
    try:
        yield
    finally:
        guard.communicate()


def writers(folder: str) -> set[int]:
    """Return the ids of the processes that have a file below `folder` open for writing."""
    found = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        # It may be gone by now, or another user's.
        with contextlib.suppress(OSError):
            if os.readlink(descriptor).startswith(f"{folder}/"):
                process = descriptor.parents[1]
                info = (process / "fdinfo" / descriptor.name).read_text()
                flags = next(line for line in info.splitlines() if line.startswith("flags:"))
                if int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                    found.add(int(process.name))
    return found


def _main(scratch: str) -> None:
    sweep = os.getppid()
    # Ray kills the children of a worker that ends, and not the children of those.
    if os.fork():
        os._exit(0)
    sys.stdin.buffer.read()
    for _ in range(_ATTEMPTS):
        left = writers(scratch) - {sweep, os.getpid()}
        if not left:
            break
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_S)


if __name__ == "__main__":
    _main(sys.argv[1])
