"""Show what trials print while they run, for `SAMTUNE_DEBUG=1`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from samtune.messages import printable
from samtune.record.logs import Tail, log_path


class Echo:
    """The logs of the running trials, shown line by line if `SAMTUNE_DEBUG` is set.

    Args:
        folder: The run's folder.
        show: Shows a line.
    """

    def __init__(self, folder: Path, show: Callable[[str], None]) -> None:
        self._folder = folder
        self._show = show
        self._is_on = bool(os.environ.get("SAMTUNE_DEBUG"))
        self._tails: dict[int, tuple[str, Tail]] = {}

    def begin(self, trial: int, name: str) -> None:
        """Show the log of a trial from now on, with its name before each line."""
        if self._is_on:
            self._tails[trial] = name, Tail(log_path(self._folder, trial), skip=True)

    def look(self) -> None:
        """Show the lines that are new."""
        for trial in self._tails:
            self._show_lines(trial, to_end=False)

    def end(self, trial: int) -> None:
        """Show the rest of a trial's log."""
        if trial in self._tails:
            self._show_lines(trial, to_end=True)
            del self._tails[trial]

    def _show_lines(self, trial: int, *, to_end: bool) -> None:
        name, tail = self._tails[trial]
        for line in tail.lines(to_end=to_end):
            self._show(f"{name} | {printable(line)}")
