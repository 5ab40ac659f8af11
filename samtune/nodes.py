"""The nodes of a Ray cluster: what fits on one, and whether one is gone."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import ray

from samtune.outcome import Cause, of_death


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


def death(told: str, node: str) -> Cause:
    """The cause behind what Ray tells of a worker that is no more; `node` begins its node's id.

    Ray notices a lost node some time after the workers on it, so the node is asked as well.
    """
    cause = of_death(told)
    return "node_lost" if cause == "worker_died" and node and _is_gone(node) else cause


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
