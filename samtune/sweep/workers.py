"""The workers of a sweep: which have started, fallen silent or died, and why."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Literal

import ray

from samtune.cluster.nodes import WORDS, OomKills, death, killed_for_memory
from samtune.cluster.start import Cluster
from samtune.cluster.startup import Startup, why_not_started
from samtune.record.outcome import End
from samtune.sweep.attempt import Attempt
from samtune.sweep.patience import Patience


class Workers:
    """The workers that run the attempts of a sweep."""

    def __init__(self, on: Cluster) -> None:
        self._startup = Startup(on)
        self._oom_kills = OomKills()
        self._patience = Patience()

    def started(self, live: Attempt, worker: Any, node: str) -> None:
        """Note the worker of an attempt and its node."""
        self._startup.succeeded()
        live.worker, live.node, live.heard = worker, node, time.monotonic()

    def heard(self, live: Attempt) -> None:
        """Note that a worker has reported."""
        live.heard = self._patience.heard(live.heard)

    def problem(self) -> str | None:
        """Return why no worker will start, or None while one may."""
        return self._startup.problem()

    def died(self, live: Attempt, words: str, *, of_memory: bool) -> End:
        """Return the end of an attempt whose worker died.

        Args:
            live: The attempt.
            words: Ray's message about the death.
            of_memory: Whether Ray killed the worker because its machine ran low on memory.
        """
        cause = death(live.node, of_memory=of_memory, oom_kills=self._oom_kills)
        reason = WORDS[cause]
        if live.worker is None:
            reason = reason if of_memory else why_not_started(words)
            self._startup.failed(reason)
        return End("error", reason, cause)

    def end_if_silent(self, live: Attempt, stall_after: float | Literal["auto"]) -> None:
        """End a worker that has not reported for `stall_after` seconds."""
        if live.worker is None or live.end is not None:
            return
        limit = self._patience.limit(stall_after)
        if time.monotonic() - live.heard > limit:
            why = f"no report for {limit:g} s; resources.stall_after allows more"
            live.end = End("error", why, "stalled")
            ray.kill(live.worker)

    def lost_to_memory(self, lives: Iterable[Attempt]) -> bool:
        """End the attempts whose workers Ray killed to free memory; return if there are any."""
        lost = [live for live in lives if live.end is None and live.worker is not None]
        lost = [live for live in lost if killed_for_memory(live.worker)]
        for live in lost:
            live.end = End("error", WORDS["oom"], "oom")
        return bool(lost)
