"""Requests to stop a sweep: by a signal, by `samtune stop`, or by the sweep itself.

Nothing is lost by any of them: every report is on record when it is decided on, so a stopped sweep
goes on by `samtune resume`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

from samtune.durable import disk_refuses

Why = Literal["asked", "gave up", "disk full"]

# What Ray may take to end its trials after a first signal; it can hang when it was hit as well.
_GRACE_S = 20.0
_POLL_S = 1.0
_FLOOR_MB = 200.0
_REQUEST = "stop"


class Stop:
    """A request to stop: the first signal ends the stage cleanly, the second the process.

    A stage that has not ended some time after the request is given up by `at_deadline`.

    `why` tells a stop that somebody asked for from one for too many errors or a full disk.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._deadline: threading.Timer | None = None
        self.why: Why | None = None
        self.signal: int | None = None
        self.detail = ""

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def request(self, why: Why = "asked", detail: str = "") -> None:
        """Asks for the stop; only the first request counts."""
        if self.requested:
            return
        self.why, self.detail = why, detail
        self._event.set()
        if self._deadline is not None:
            self._deadline.start()

    @contextmanager
    def on_signals(self, at_deadline: Callable[[], None]) -> Iterator[None]:
        """Listens to Ctrl-C, SIGTERM and SIGHUP inside the block."""
        # A thread, because the main one may get stuck in Ray's calls when Ray was hit as well.
        deadline = threading.Timer(_GRACE_S, at_deadline)
        deadline.daemon = True
        outer, self._deadline = self._deadline, deadline

        def handle(number: int, frame: FrameType | None) -> None:
            if self.requested:
                os._exit(130)
            self.signal = number
            self.request()

        # What nohup or a shell's `&` has told us to ignore stays ignored.
        wanted = [
            number
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN
        ]
        before = [signal.signal(number, handle) for number in wanted]
        try:
            yield
        finally:
            deadline.cancel()
            self._deadline = outer
            for number, handler in zip(wanted, before, strict=True):
                signal.signal(number, handler)


class Watch:
    """What a sweep looks at in its run folder while it runs: requests to stop, and free space.

    Requests are files, so that they cross machines that share the folder.
    """

    def __init__(self, folder: Path, stop: Stop) -> None:
        self._folder = folder
        self._stop = stop
        self._looked = -_POLL_S

    def look(self) -> None:
        """Passes a request of `samtune stop` on; once a second, whenever it is called."""
        if time.monotonic() - self._looked >= _POLL_S:
            self._looked = time.monotonic()
            if (self._folder / _REQUEST).exists():
                self._stop.request()

    def room(self) -> None:
        """Stops the sweep while there is still room to do so without a torn file."""
        free = shutil.disk_usage(self._folder).free / 1e6
        floor = float(os.environ.get("SAMTUNE_FREE_MB", _FLOOR_MB))
        if free < floor:
            self._stop.request(
                "disk full", f"{free:.0f} MB are free there, and {floor:g} MB are kept free"
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns a write that the disk refuses into a stop; the record is whole up to it."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            if not disk_refuses(error):
                raise
            self._stop.request("disk full", str(error))


def ask_to_stop(folder: Path) -> None:
    """Asks the sweep that writes `folder` to stop, from whichever process or machine."""
    (folder / _REQUEST).touch()


def withdraw(folder: Path) -> None:
    """Takes back what `ask_to_stop` asked."""
    (folder / _REQUEST).unlink(missing_ok=True)
