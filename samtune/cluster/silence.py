"""Suppression of the lines that Ray and Tune print in this process.

A thread of Ray prints a paragraph about each worker that dies, and Tune prints a line about each
trial without a result. Both use `print`, and no setting turns it off. The record has the cause of
each end, and the command shows it once.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def silent_ray() -> Iterator[None]:
    """Drop Ray's output inside the block: in its own threads, and to stdout in this thread."""
    before = sys.stdout, sys.stderr
    sys.stdout = _Filtered(sys.stdout, threading.current_thread())
    sys.stderr = _Filtered(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Filtered:
    """A text stream that drops the output of Ray's threads and of one more thread."""

    def __init__(self, stream: Any, silent: threading.Thread | None = None) -> None:
        self._stream = stream
        self._silent = silent

    def write(self, text: str) -> int:
        thread = threading.current_thread()
        if thread is self._silent or thread.name.startswith("ray_"):
            return len(text)
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
