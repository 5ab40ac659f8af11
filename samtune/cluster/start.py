"""Start of a Ray of our own, or connection to a running one, and its number of slots."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from samtune.cluster.access import answers, protect
from samtune.cluster.nodes import alive
from samtune.cluster.orphans import ended_with_us
from samtune.cluster.ray_internals import WORKERS_ON_DEMAND
from samtune.cluster.scratch import scratch_folder
from samtune.cluster.sharing import shared_gpus
from samtune.cluster.size import TrialSize
from samtune.record.folder import RunError
from samtune.space.schema import ResourceSettings


@dataclass(frozen=True)
class Cluster:
    """A running Ray.

    Attributes:
        slots: How many trials it runs at once.
        size: The resources of one trial.
        scratch: A temporary folder on this machine.
        storage: The URL to which workers copy checkpoints.
        is_own: Whether it was started by this command, and nobody else uses it.
    """

    slots: int
    size: TrialSize
    scratch: Path
    storage: str | None = None
    is_own: bool = True

    @property
    def per_trial(self) -> tune.PlacementGroupFactory:
        """The resources of one trial: a bundle per process, on one node where they fit there."""
        return tune.PlacementGroupFactory(self.size.bundles)


@contextmanager
def cluster(
    wanted: Sequence[ResourceSettings],
    address: str | None = None,
    *,
    storage: str | None = None,
    ship: Sequence[str] = (),
) -> Iterator[Cluster]:
    """Start a Ray of our own for the block, or join the one at `address`.

    Args:
        wanted: The resources of each space; a trial gets the largest of each kind.
        address: `host:port` of a running Ray.
        storage: The URL to which workers copy checkpoints.
        ship: Paths of Python modules to send to the workers.

    Raises:
        RunError: no trial fits, nothing answers at `address`, Ray or MPS does not start, or
            everyone on the network could use it (exit code 5).
    """
    size = TrialSize.of(wanted)
    if address is None:
        protect()
    else:
        answers(address)
    with scratch_folder() as scratch, _connected(scratch, size, address, ship):
        nodes = alive()
        slots = size.slots(nodes)
        if not slots:
            raise RunError(size.does_not_fit(nodes), exit_code=5)
        with shared_gpus(size.gpus) if size.mps else contextlib.nullcontext():
            yield Cluster(slots, size, scratch, storage, is_own=address is None)


@contextmanager
def _connected(
    scratch: Path, size: TrialSize, address: str | None, ship: Sequence[str]
) -> Iterator[None]:
    """Connect this process to Ray for the block."""
    # An empty working folder: Ray would put the user's own in front of the workers' path, and a
    # stray ./trainables there would be trained in place of ours.
    empty = scratch / "empty"
    empty.mkdir()
    sent: dict[str, Any] = {"working_dir": str(empty)}
    if ship:
        sent["py_modules"] = list(ship)
    with contextlib.ExitStack() as stack:
        own: dict[str, Any] = {}
        if address is None:
            stack.enter_context(ended_with_us(str(scratch)))
            stack.enter_context(_environment({"RAY_TMPDIR": str(scratch), **WORKERS_ON_DEMAND}))
            own = {
                "num_cpus": size.own_cpus,
                "include_dashboard": False,
                "object_store_memory": 128 * 2**20,
            }
        try:
            ray.init(
                address=address or "local",
                runtime_env=sent,
                log_to_driver=False,
                # A failure in a trial is in the record, and the command shows it once.
                logging_level=logging.CRITICAL,
                **own,
            )
        except (RayError, ConnectionError, RuntimeError, OSError) as error:
            hint = (
                "is there room in the folder for temporary files?"
                if address is None
                else "is --address right, and RAY_AUTH_TOKEN the cluster's? One that runs without "
                "tokens needs RAY_AUTH_MODE=disabled"
            )
            why = str(error).splitlines()[0]
            raise RunError(f"Ray did not start ({why}); {hint}", exit_code=5) from error
        stack.callback(ray.shutdown)
        yield


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
