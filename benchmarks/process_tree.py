"""Wall and CPU seconds of a command with all its processes, Ray's included.

    python -m benchmarks.process_tree run sgd sam asam --confirm

measures a samtune command. It needs Linux, because this process adopts the orphans among its
descendants. CPU time is sampled five times per second, because the kernel does not add the time of
the workers that Ray ends. The last fifth of a second of a process may be missing, except for the
command itself. Processes that outlive the command are waited for and count as its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMTUNE = (sys.executable, "-c", "from samtune.cli import main; main()")
_PR_SET_CHILD_SUBREAPER = 36
_EVERY_S = 0.2
_OUTLIVES_S = 60.0


@dataclass(frozen=True)
class Usage:
    """The cost of a command in seconds. `processes` counts all that it started."""

    returncode: int
    wall_s: float
    cpu_s: float
    processes: int


def look(used: dict[psutil.Process, float]) -> None:
    """Update the CPU seconds of all processes below this one, dead or alive."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            used[process] = sum(process.cpu_times()[:2])


def measure(
    words: Sequence[str],
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    output: int | None = None,
) -> Usage:
    """Run a command to its end, and add up the CPU time of its whole process tree."""
    # Other processes below this one are not counted, and not waited for.
    others = {*psutil.Process().children(recursive=True)}
    used: dict[psutil.Process, float] = {}
    with _adopting():
        started = time.monotonic()
        command = subprocess.Popen(
            words,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdout=output,
            stderr=output,
        )
        # Not reaped yet, so that its CPU time can be read once more.
        end = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while os.waitid(os.P_PID, command.pid, end) is None:
            look(used)
            time.sleep(_EVERY_S)
        wall_s = time.monotonic() - started
        look(used)
        returncode = command.wait()
        _outlive(used, others)
    own = [seconds for process, seconds in used.items() if process not in others]
    return Usage(returncode, wall_s, sum(own), len(own))


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0)


def _outlive(used: dict[psutil.Process, float], others: Collection[psutil.Process]) -> None:
    """Wait until all but the `others` have ended, and kill those that do not end."""
    until = time.monotonic() + _OUTLIVES_S
    while left := {*psutil.Process().children(recursive=True)} - {*others}:
        look(used)
        if time.monotonic() > until:
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        psutil.wait_procs(left, timeout=_EVERY_S)


def main() -> int:
    """Measure a samtune command."""
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
