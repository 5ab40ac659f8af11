"""The time for which a worker may be silent before the sweep ends its trial as stalled."""

from __future__ import annotations

import time
from typing import Literal

# How long a trial may be silent if its space says `auto`: this long before any trial has reported,
# and then a multiple of the longest silence that ended in a report.
_FIRST_S = 3600.0
_MULTIPLE = 10
_SHORTEST_S = 600.0


class Patience:
    """The longest silence that ended in a report, and the limit that follows from it."""

    def __init__(self) -> None:
        self._longest_s = 0.0

    def heard(self, since: float) -> float:
        """Note a report after a silence since `since`, and return when the next one begins."""
        now = time.monotonic()
        self._longest_s = max(self._longest_s, now - since)
        return now

    def limit(self, stall_after: float | Literal["auto"]) -> float:
        """Return how many seconds a trial may be silent, by its space's `stall_after`."""
        if stall_after != "auto":
            return stall_after
        return max(_SHORTEST_S, _MULTIPLE * self._longest_s) if self._longest_s else _FIRST_S
