"""The time of an epoch, divided between its batches and its steps."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter

import torch


class EpochClock:
    """Times the parts of an epoch: batch, step, batch, step, and so on.

    The host's clock is right on the CPU. A GPU works behind the host, which waits wherever the
    queue is full: there, events between the parts say how the device's time was divided.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._ends: list[torch.cuda.Event] = []
        self._last = 0.0
        self.lap()

    def lap(self) -> float:
        """End a part, and return its seconds by the host's clock."""
        if self._on_gpu:
            end = torch.cuda.Event(enable_timing=True)
            end.record()
            self._ends.append(end)
        return self.rest()

    def rest(self) -> float:
        """Return the host's seconds since the last part, which belong to no part."""
        before, self._last = self._last, perf_counter()
        return self._last - before

    def of_batches(self) -> float | None:
        """Return the share of the device's time that batches took, 0 to 1; None on the CPU.

        The device must have done all that was queued.
        """
        parts = [begin.elapsed_time(end) for begin, end in pairwise(self._ends)]
        return sum(parts[::2]) / sum(parts) if sum(parts) else None
