"""Checks whether the workers of a sweep start, and explanations when they do not."""

from __future__ import annotations

import re
import time
from pathlib import Path

from samtune.cluster.start import Cluster
from samtune.messages import printable

# Failures in a row before any worker has started.
_MOST_FAILURES = 3
# A worker may die before it connects to Ray; Ray then restarts it forever without an error. So
# this long after the first request, the workers' logs are searched for an exception. If there is
# none, the worker may only be slow.
_SILENT_S = 25.0
_LONGEST_S = 300.0
# The last line of a traceback.
_EXCEPTION = re.compile(r"(?!ray\.)[\w.]*(Error|Exception|Exit)\b.*")


def why_not_started(words: str) -> str:
    """Return a sentence about a worker that could not start, from what Ray reports of it.

    That ends in the exception, if the worker's own code raised one.
    """
    last = words.splitlines()[-1] if words else ""
    if _EXCEPTION.match(last):
        return f"its worker could not start: {printable(last)}"
    return "its worker could not start; the events of the trial have more"


class Startup:
    """The start of a sweep's first worker."""

    def __init__(self, on: Cluster) -> None:
        self._on = on
        self._began = time.monotonic()
        self._has_succeeded = False
        self._failures: list[str] = []

    def succeeded(self) -> None:
        """Note that a worker has started."""
        self._has_succeeded = True

    def failed(self, reason: str) -> None:
        """Note that a worker could not start."""
        self._failures.append(reason)

    def problem(self) -> str | None:
        """Return why no worker will start, or None while one may."""
        if self._has_succeeded:
            return None
        if len(self._failures) >= _MOST_FAILURES:
            return self._failures[-1]
        waited = time.monotonic() - self._began
        # The workers of another's cluster may have to wait for its other users.
        if not self._on.is_own or waited < _SILENT_S:
            return None
        last_words = _last_words(self._on.scratch)
        if last_words is None and waited > _LONGEST_S:
            return f"none has started in {_LONGEST_S:g} s"
        return last_words


def _last_words(scratch: Path) -> str | None:
    """Return the exception that ended a worker process, from what it wrote to standard error.

    Early in a worker's start, that is the raylet's standard error.
    """
    logs = scratch / "ray" / "session_latest" / "logs"
    for file in [logs / "raylet.err", *logs.glob("worker-*.err")]:
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        for line in reversed(lines):
            if _EXCEPTION.match(line):
                return printable(line)
    return None
