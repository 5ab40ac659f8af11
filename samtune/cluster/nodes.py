"""The nodes of a Ray cluster: what fits on one, whether one is gone, or has run out of memory."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray

from samtune.record.outcome import Cause, of_death


def alive() -> list[dict[str, float]]:
    """The resources of each node."""
    return [node["Resources"] for node in _nodes() if node["Alive"]]


def fitting(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    """How many processes a node holds; a GPU is shared by whole processes."""
    fits = int(node.get("CPU", 0) / cpus + 1e-9)
    if gpus:
        have = node.get("GPU", 0)
        a_gpu = int(1 / gpus + 1e-9)
        fits = min(fits, int(have) * a_gpu if a_gpu else int(have / gpus + 1e-9))
    return fits


class OomKills:
    """The processes of ours on this machine that the kernel has killed for want of memory.

    It counts them by control group and does not say whom: each death of a worker takes up one.
    """

    def __init__(self) -> None:
        self._taken_up = _oom_kills()

    def another(self) -> bool:
        """Whether there has been one since that no death has taken up."""
        if _oom_kills() <= self._taken_up:
            return False
        self._taken_up += 1
        return True


def death(told: str, node: str, oom_kills: OomKills | None = None) -> Cause:
    """The cause behind what Ray tells of a worker that is no more; `node` begins its node's id.

    Ray notices a lost node some time after the workers on it, so the node is asked as well, and
    the kernel where it is this machine's.
    """
    cause = of_death(told)
    if cause != "worker_died":
        return cause
    if node and _is_gone(node):
        return "node_lost"
    return "oom" if oom_kills and _is_here(node) and oom_kills.another() else cause


def _oom_kills() -> int:
    for file in _memory_events():
        with contextlib.suppress(OSError):
            for line in file.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0


def _memory_events() -> Iterator[Path]:
    """Where Linux counts for our control group; a container sees its own as the topmost."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:
                yield Path(f"/sys/fs/cgroup{group}/memory.events")
            elif "memory" in controllers.split(","):
                yield Path(f"/sys/fs/cgroup/memory{group}/memory.oom_control")
    yield Path("/sys/fs/cgroup/memory.events")
    yield Path("/sys/fs/cgroup/memory/memory.oom_control")


def _is_here(node: str) -> bool:
    """Whether it is this process's node; one that is not known is, where there are no others."""
    if not node:
        return len(_nodes()) == 1
    return ray.get_runtime_context().get_node_id().startswith(node)


def _is_gone(node: str) -> bool:
    for known in _nodes():
        if str(known["NodeID"]).startswith(node):
            place = known["NodeManagerAddress"], known["NodeManagerPort"]
            return not known["Alive"] or not _answers(place)
    return True


def _answers(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=2).close()
    except OSError:
        return False
    return True


def _nodes() -> list[dict[str, Any]]:
    return list(ray.nodes())  # type: ignore[no-untyped-call]
