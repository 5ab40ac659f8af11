"""A function that is called a few times per second while a block runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY_S = 0.2


@contextmanager
def heartbeat(beat: Callable[[], None], on_error: Callable[[], None]) -> Iterator[None]:
    """Call `beat` in a thread of its own until the block ends.

    An exception of `beat` ends the calls, and `on_error` is called. It is raised after the block.
    """
    over = threading.Event()
    errors: list[Exception] = []

    def run() -> None:
        while not over.wait(_EVERY_S):
            try:
                beat()
            except Exception as error:
                errors.append(error)
                on_error()
                return

    thread = threading.Thread(target=run, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]
