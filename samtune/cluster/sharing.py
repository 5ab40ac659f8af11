"""MPS on every node of a Ray that has GPUs, for as long as a sweep runs.

An actor on each such node holds the daemon of MPS. Another actor, the keeper, creates them. An
actor ends with the process that created it, and the keeper ends with the sweep, even if the sweep
is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from samtune.cluster.mps import CONTROL, WITHOUT_MPS, daemon
from samtune.cluster.nodes import with_gpus
from samtune.cluster.orphans import ended_with_us
from samtune.cluster.scratch import scratch_folder
from samtune.messages import printable
from samtune.record.folder import RunError

_NAME = "samtune-mps"
_START_S = 120.0
_END_S = 30.0
_MARGIN_S = 5.0


class _Daemon:
    """The actor that holds the daemon of its node."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._stack = ExitStack()
        self._started: dict[str, str] | str | None = None

    def environment(self) -> dict[str, str] | str:
        """Return the environment of the daemon's clients, or why there is no daemon."""
        if self._started is None:
            try:
                scratch = self._stack.enter_context(scratch_folder())
                self._stack.enter_context(ended_with_us(str(scratch)))
                self._started = self._stack.enter_context(daemon(self._share, scratch))
            except RunError as error:
                self._started = str(error)
        return self._started

    def end(self) -> None:
        """End the daemon."""
        self._stack.close()


class _Keeper:
    """The actor that makes the others, each when it is first asked for."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._daemons: dict[str, Any] = {}

    def environments(self, nodes: list[str]) -> list[dict[str, str] | str]:
        """Return the result of `_Daemon.environment` for each node."""
        for node in nodes:
            if node not in self._daemons:
                again = {"max_restarts": -1, "max_task_retries": -1}
                self._daemons[node] = _placed(_Daemon, node, **again).remote(self._share)
        return list(ray.get([self._daemons[node].environment.remote() for node in nodes]))

    def end(self) -> None:
        """End all daemons."""
        ended = [each.end.remote() for each in self._daemons.values()]
        ray.wait(ended, num_returns=len(ended), timeout=_END_S)


@contextmanager
def shared_gpus(share: float) -> Iterator[None]:
    """Run MPS in the block on each node with GPUs.

    A node that joins later gets its daemon with its first trial.

    Args:
        share: The share of a GPU that a process has; it limits the process's memory there.

    Raises:
        RunError: MPS is missing on a node, or does not start there (exit code 5).
    """
    here = ray.get_runtime_context().get_node_id()
    keeper = _placed(_Keeper, here, name=_NAME).remote(share)
    nodes = with_gpus()
    try:
        try:
            found = ray.get(keeper.environments.remote(list(nodes)), timeout=_START_S)
        except (RayError, GetTimeoutError) as error:
            raise RunError(
                f"MPS did not start on all nodes ({_first(error)}); {WITHOUT_MPS}", exit_code=5
            ) from error
        for address, started in zip(nodes.values(), found, strict=True):
            if isinstance(started, str):
                raise RunError(f"node {address}: {started}", exit_code=5)
        yield
    finally:
        with contextlib.suppress(RayError, GetTimeoutError):
            ray.get(keeper.end.remote(), timeout=_END_S + _MARGIN_S)


def without_mps() -> list[str]:
    """Return the addresses of the nodes that have GPUs but not the program of MPS."""
    nodes = with_gpus()
    looks = [_placed(shutil.which, node).remote(CONTROL) for node in nodes]
    found = ray.get(looks, timeout=_START_S)
    return [address for address, path in zip(nodes.values(), found, strict=True) if path is None]


def join() -> str | None:
    """Make this process a client of its node's daemon, before it uses CUDA.

    Returns:
        The reason why its trials still take turns on the GPU; None if they do not.
    """
    here = ray.get_runtime_context().get_node_id()
    found: dict[str, str] | str
    try:
        keeper: Any = ray.get_actor(_NAME)
        found = ray.get(keeper.environments.remote([here]))[0]
    except (RayError, ValueError) as error:
        found = _first(error)
    if isinstance(found, str):
        return f"trials take turns on the GPUs of a node: {found}"
    os.environ.update(found)
    return None


def _placed(kind: Callable[..., Any], node: str, **options: Any) -> Any:
    """Return an actor or a function of Ray that takes no resources, on a node."""
    affinity = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(kind).options(num_cpus=0, scheduling_strategy=affinity, **options)


def _first(error: Exception) -> str:
    """Return the first line of a failure's message, without Ray's own words around it."""
    said = str(getattr(error, "cause", None) or error).strip()
    return printable(said.splitlines()[0]) if said else type(error).__name__
