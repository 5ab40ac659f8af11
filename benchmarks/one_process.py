"""The cost of a command that runs in one process: its time, and its peak of memory."""

from __future__ import annotations

import os
import sys
import time


def cost(*words: str) -> dict[str, float]:
    """Run Python with these words, and return wall and CPU seconds and the peak in MiB.

    The process is spawned: the peak of a forked one would begin at that of its parent.

    Raises:
        RuntimeError: The command failed.
    """
    started = time.perf_counter()
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, *words],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"python {' '.join(words)} ended with {status}")
    return {
        "wall_s": time.perf_counter() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 2**10,
    }
