"""Wall and CPU seconds of a samtune command with all its processes, Ray's included.

    python -m benchmarks.process_tree run sgd sam asam --confirm

Linux only: this process adopts what its descendants leave behind. CPU time is sampled five times
a second, because Ray lets the kernel forget the workers that it ends; the last fifth of a second
of a process may be missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_EVERY_S = 0.2


def main() -> int:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    used: dict[tuple[int, float], float] = {}
    own = psutil.Process()
    started = time.monotonic()
    words = [sys.executable, "-c", "from samtune.cli import main; main()", *sys.argv[1:]]
    command = subprocess.Popen(words)
    while command.poll() is None:
        for process in own.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used[process.pid, process.create_time()] = times.user + times.system
        time.sleep(_EVERY_S)
    print(
        f"exit code {command.returncode}, wall {time.monotonic() - started:.1f} s, "
        f"CPU {sum(used.values()):.1f} s in {len(used)} processes, "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores",
        file=sys.stderr,
    )
    return command.returncode


if __name__ == "__main__":
    sys.exit(main())
