"""Redirection of a trial's output into its log, away from every terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from samtune.record.logs import shorten

_LOOK_S = 0.5


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Append stdout and stderr of this process and its children to a log inside the block.

    Nothing is lost when the process is killed, because it writes the file itself. The log is
    bounded in size.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for descriptor in (1, 2):
            _redirect(descriptor, log, stack)
        os.close(log)
        stack.callback(_flush)
        stack.enter_context(_bounded(path))
        yield


def _redirect(descriptor: int, log: int, stack: ExitStack) -> None:
    before = os.dup(descriptor)
    stack.callback(os.close, before)
    stack.callback(os.dup2, before, descriptor)
    _flush()
    os.dup2(log, descriptor)


@contextmanager
def _bounded(path: Path) -> Iterator[None]:
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_S):
            shorten(path)

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()
        _flush()
        shorten(path)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # A trainable may have closed or replaced it.
        with contextlib.suppress(Exception):
            stream.flush()
