"""Wall and CPU seconds of a command with all its processes, Ray's included.

    python -m benchmarks.process_tree run sgd sam asam --confirm

measures a samtune command. Linux only: this process adopts what its descendants leave behind. CPU
time is sampled five times a second, because Ray lets the kernel forget the workers that it ends;
the last fifth of a second of a process may be missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMTUNE = (sys.executable, "-c", "from samtune.cli import main; main()")
_PR_SET_CHILD_SUBREAPER = 36
_EVERY_S = 0.2


@dataclass(frozen=True)
class Usage:
    """What a command took, in seconds; `processes` counts all that it started."""

    returncode: int
    wall_s: float
    cpu_s: float
    processes: int


def measure(
    words: Sequence[str],
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    output: int | None = None,
) -> Usage:
    """Runs a command to its end and adds up the processor time of its whole process tree."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    used: dict[tuple[int, float], float] = {}
    own = psutil.Process()
    started = time.monotonic()
    command = subprocess.Popen(
        words,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdout=output,
        stderr=output,
    )
    while command.poll() is None:
        for process in own.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used[process.pid, process.create_time()] = times.user + times.system
        time.sleep(_EVERY_S)
    wall_s = time.monotonic() - started
    return Usage(command.returncode, wall_s, sum(used.values()), len(used))


def main() -> int:
    usage = measure([*SAMTUNE, *sys.argv[1:]])
    print(
        f"exit code {usage.returncode}, wall {usage.wall_s:.1f} s, "
        f"CPU {usage.cpu_s:.1f} s in {usage.processes} processes, "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        file=sys.stderr,
    )
    return usage.returncode


if __name__ == "__main__":
    sys.exit(main())
