"""The nodes of a Ray cluster, and why a worker on one of them died."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError

from samtune.record.outcome import Cause

_ANSWER_S = 5.0

WORDS: dict[Cause, str] = {
    "oom": "its process was killed, because its machine ran low on memory",
    "node_lost": "its machine is gone",
    "worker_died": "its process was killed, or crashed",
}
"""The explanation of a worker's death that the user sees, by its cause."""


def alive() -> list[dict[str, float]]:
    """Return the resources of each node."""
    return [node["Resources"] for node in _nodes() if node["Alive"]]


def with_gpus() -> dict[str, str]:
    """Return the address of each node that has GPUs, by the node's id."""
    return {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in _nodes()
        if node["Alive"] and node["Resources"].get("GPU")
    }


class OomKills:
    """The processes of this command that the kernel has killed because memory ran out.

    The kernel counts them by control group and does not name them. Each death of a worker is
    attributed to at most one.
    """

    def __init__(self) -> None:
        self._attributed = _oom_kills()

    def another(self) -> bool:
        """Return whether there was one more kill that no death is attributed to so far."""
        if _oom_kills() <= self._attributed:
            return False
        self._attributed += 1
        return True


def death(node: str, *, of_memory: bool = False, oom_kills: OomKills | None = None) -> Cause:
    """Return why a worker died.

    Ray notices a lost node some time after the workers on it, so the node itself is asked. On
    this machine the kernel is asked too.

    Args:
        node: The beginning of the id of the worker's node, empty if it is not known.
        of_memory: Whether Ray itself killed the worker because memory ran low.
        oom_kills: The kernel's kills on this machine.
    """
    if of_memory:
        return "oom"
    if node and _is_gone(node):
        return "node_lost"
    if oom_kills and _is_here(node) and oom_kills.another():
        return "oom"
    return "worker_died"


def killed_for_memory(worker: Any) -> bool:
    """Return whether Ray has killed this worker because its machine ran low on memory."""
    try:
        ray.get(worker.__ray_ready__.remote(), timeout=_ANSWER_S)
    except OutOfMemoryError:
        return True
    except RayError:
        # It died of something else, or it is busy.
        return False
    return False


def _oom_kills() -> int:
    for file in _memory_events():
        with contextlib.suppress(OSError):
            for line in file.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0


def _memory_events() -> Iterator[Path]:
    """Yield the files in which Linux may count the events of this process's control group.

    A container sees its own group at the top of the tree.
    """
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
    """Return whether this process runs on the node. An unknown node counts if it is alone."""
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
    return list(ray.nodes())
