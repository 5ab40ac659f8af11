"""Processes that tests start, and whether they still run."""

from __future__ import annotations

import psutil


def runs(pid: int) -> bool:
    """Return whether a process runs. One that has ended may be waiting for its parent."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
