"""Requests to stop a sweep: by a signal, by `samtune stop`, or by the sweep itself.

A stop loses nothing: every report is recorded before it is judged, so `samtune resume` continues a
stopped sweep.
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

Why = Literal["asked", "gave up", "disk full", "no workers"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME_REQUEST_S = 1.0
_LEFT = (
    "samtune: stopped at once, without tables and without a copy on the storage; every report up "
    "to now is on record, and `samtune resume` continues\n"
)
# The time for Ray to end its trials. Ray may hang if a signal has hit it as well.
_GRACE_S = 20.0
_POLL_S = 1.0
_FLOOR_MB = 200.0
_REQUEST = "stop"


class Stop:
    """A request to stop a run. The first one ends it cleanly, with tables and the storage's copy.

    A signal that comes a second or more after the first signal ends the process at once. Within
    that second it is the same request: `timeout` and job schedulers signal a process and then its
    whole group.

    Attributes:
        why: The reason: a person or a signal, too many errors, or a full disk.
        signal: The number of the signal that requested the stop, or None.
        detail: More about a full disk.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._deadline: threading.Timer | None = None
        self._listened: tuple[signal.Signals, ...] = ()
        self._first_signal_at: float | None = None
        self.why: Why | None = None
        self.signal: int | None = None
        self.detail = ""

    @property
    def requested(self) -> bool:
        """True if a stop was requested."""
        return self._event.is_set()

    def request(self, why: Why = "asked", detail: str = "") -> None:
        """Request the stop. Only the first request counts."""
        if self.requested:
            return
        self.why, self.detail = why, detail
        self._event.set()
        if self._deadline is not None:
            self._deadline.start()

    @contextmanager
    def deadline(self, give_up: Callable[[], None]) -> Iterator[None]:
        """Call `give_up` if the block has not ended some time after the request.

        It runs in a thread of its own, because the main thread may hang in a call of Ray's.
        """
        timer = self._deadline = threading.Timer(_GRACE_S, give_up)
        timer.daemon = True
        if self.requested:
            timer.start()
        try:
            yield
        finally:
            self._deadline = None
            timer.cancel()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen to Ctrl-C, SIGTERM and SIGHUP inside the block, in a main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        # What nohup or a shell's `&` ignores stays ignored.
        self._listened = tuple(n for n, how in before.items() if how is not signal.SIG_IGN)
        self.listen()
        try:
            yield
        finally:
            for number in self._listened:
                signal.signal(number, before[number] or signal.SIG_DFL)
            self._listened = ()

    def listen(self) -> None:
        """Listen again, after Ray has replaced the handlers at its start."""
        for number in self._listened:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first_signal_at is None:
            self._first_signal_at = now
            if not self.requested:
                self.signal = number
            self.request()
        elif now - self._first_signal_at >= _SAME_REQUEST_S:
            os.write(2, _LEFT.encode())
            os._exit(130)


class Watch:
    """A sweep's watch over its run folder, for requests to stop and for free space.

    Requests are files, so that they also come from machines that share the folder.
    """

    def __init__(self, folder: Path, stop: Stop) -> None:
        self._folder = folder
        self._stop = stop
        self._looked = -_POLL_S

    def look(self) -> None:
        """Pass on a request of `samtune stop`. It looks at most once per second."""
        if time.monotonic() - self._looked >= _POLL_S:
            self._looked = time.monotonic()
            if (self._folder / _REQUEST).exists():
                self._stop.request()

    def room(self) -> None:
        """Stop the sweep while there is still room on the disk to write whole files."""
        free = shutil.disk_usage(self._folder).free / 1e6
        floor = float(os.environ.get("SAMTUNE_FREE_MB", _FLOOR_MB))
        if free < floor:
            self._stop.request(
                "disk full", f"{free:.0f} MB are free there, and {floor:g} MB are kept free"
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a write that the disk refuses into a stop. Everything before it is recorded."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            if not disk_refuses(error):
                raise
            self._stop.request("disk full", str(error))


def ask_to_stop(folder: Path) -> None:
    """Ask the sweep that writes `folder` to stop, from any process or machine."""
    (folder / _REQUEST).touch()


def withdraw(folder: Path) -> None:
    """Withdraw the request of `ask_to_stop`."""
    (folder / _REQUEST).unlink(missing_ok=True)
