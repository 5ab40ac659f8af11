"""Keep the lines that Ray and Tune print in this process off its stdout and stderr.

A thread of Ray's prints a paragraph about each worker that dies, and Tune a line about each trial
without a result, both by `print` and without a setting against it. The record has the cause of
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
    """Drop what Ray prints inside the block: in its own threads, and to stdout in this thread."""
    before = sys.stdout, sys.stderr
    sys.stdout = _Filtered(sys.stdout, threading.current_thread())
    sys.stderr = _Filtered(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Filtered:
    """A text stream that takes nothing from Ray's threads, and nothing from one more."""

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
