"""A Ray that belongs to samtune: started or joined, silent, and given trials to run."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock, Timeout
from ray import tune
from ray._raylet import Config as RayConfig  # type: ignore[attr-defined]

from samtune.cluster.nodes import alive, fitting
from samtune.cluster.orphans import ended_with_us
from samtune.record.folder import RunError
from samtune.space.schema import ResourceSettings

# Each for a measured reason: warm workers must not be given up on when a trial ends slowly, the
# record replaces Tune's own files and snapshots, and the terminal belongs to samtune.
_ENVIRONMENT = {
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "600",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A trial's worker is asked for by name; those started in advance would never be used.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}

# A cluster that takes longer to take up a connection is no use to a sweep.
_ANSWER_S = 5.0


@dataclass(frozen=True)
class Cluster:
    """A running Ray, and how many trials of the wanted size it holds at once.

    A trial is `workers` processes with `cpus` and `gpus` each. `storage` is the URL to which
    workers copy checkpoints.
    """

    slots: int
    cpus: float
    gpus: float
    scratch: Path
    workers: int = 1
    storage: str | None = None

    @property
    def per_trial(self) -> tune.PlacementGroupFactory:
        """A bundle a process, on one node where they fit there."""
        bundle = {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})
        return tune.PlacementGroupFactory([dict(bundle) for _ in range(self.workers)])


@contextmanager
def cluster(
    wanted: Sequence[ResourceSettings],
    address: str | None = None,
    *,
    storage: str | None = None,
    ship: Sequence[str] = (),
) -> Iterator[Cluster]:
    """Starts a Ray of our own, or joins the one at `address`.

    A trial gets the largest of the `wanted` resources. `ship` are paths of Python modules that
    the workers are sent.

    Raises RunError (exit code 5) when no trial fits, when nobody answers at `address`, and when
    the Ray that it would start lets everyone on the network in.
    """
    cpus = max(resources.cpus for resources in wanted)
    gpus = max(resources.gpus for resources in wanted)
    workers = max(resources.workers for resources in wanted)
    parallel = max((r.parallel for r in wanted if isinstance(r.parallel, int)), default=None)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is None:
        _refuse_open_ray()
    else:
        _refuse_silence(address)
    # A token of our own: Ray would write one into the user's home folder.
    if address is None and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray read its settings when it was imported; this makes it read them again.
    RayConfig.initialize("")
    # Ray's socket paths must stay under 108 characters.
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) <= 30 else "/tmp"
    _sweep_up(Path(short))
    with (
        tempfile.TemporaryDirectory(
            prefix=f"samtune-{os.getpid()}-", dir=short, ignore_cleanup_errors=True
        ) as scratch,
        FileLock(Path(scratch, "lock")),
        ended_with_us(scratch) if address is None else contextlib.nullcontext(),
    ):
        # An empty working folder: Ray would put the user's own in front of the workers' path,
        # and a stray ./trainables there would be trained in place of ours.
        empty = Path(scratch, "empty")
        empty.mkdir()
        local: dict[str, Any] = {
            "num_cpus": max(_own_cpus(), math.ceil((parallel or 1) * workers * cpus)),
            "include_dashboard": False,
            "object_store_memory": 128 * 2**20,
            "_temp_dir": scratch,
        }
        sent: dict[str, Any] = {"working_dir": str(empty)}
        if ship:
            sent["py_modules"] = list(ship)
        try:
            ray.init(
                address=address or "local",
                runtime_env=sent,
                log_to_driver=False,
                # What goes wrong in a trial is on record, and told once.
                logging_level=logging.CRITICAL,
                **(local if address is None else {}),
            )
        except (ConnectionError, RuntimeError, OSError) as error:
            hint = (
                "is there room in the folder for temporary files?"
                if address is None
                else "is --address right, and RAY_AUTH_TOKEN the cluster's? One that runs without "
                "tokens needs RAY_AUTH_MODE=disabled"
            )
            raise RunError(
                f"Ray did not start ({str(error).splitlines()[0]}); {hint}",
                exit_code=5,
            ) from error
        try:
            nodes = alive()
            fits = sum(fitting(node, cpus, gpus) for node in nodes) // workers
            if not fits:
                have = [f"{sum(node.get(kind, 0) for node in nodes):g}" for kind in ("CPU", "GPU")]
                times = f"{workers} times " if workers > 1 else ""
                raise RunError(
                    f"no trial fits: one wants {times}{cpus:g} CPUs and {gpus:g} GPUs, and Ray "
                    f"has {have[0]} and {have[1]} on {len(nodes)} "
                    f"node{'s' if len(nodes) > 1 else ''}; try --set resources.gpus=0"
                    f"{', --set resources.workers=1' if workers > 1 else ''} "
                    "or --set resources.cpus=1",
                    exit_code=5,
                )
            slots = min(fits, parallel or fits)
            yield Cluster(slots, cpus, gpus, Path(scratch), workers, storage)
        finally:
            ray.shutdown()


def _refuse_open_ray() -> None:
    """Ray listens on all interfaces, and whoever reaches it without a token runs code."""
    if os.environ["RAY_AUTH_MODE"] != "disabled" or os.environ.get("SAMTUNE_ALLOW_OPEN_RAY"):
        return
    if any(not name.startswith("lo") for _, name in socket.if_nameindex()):
        raise RunError(
            "RAY_AUTH_MODE=disabled would let everyone who reaches this machine run code on it; "
            "unset it, or say --allow-open-ray",
            exit_code=5,
        )


def _refuse_silence(address: str) -> None:
    """Ray would knock at a closed door for minutes, and tell of it in lines of its own."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise RunError(
            f"no Ray answers at {address} ({why}); `ray start --head` on that machine starts one "
            "and prints its address, and without --address samtune starts its own here",
            exit_code=5,
        ) from None


def _own_cpus() -> int:
    """The processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _sweep_up(folder: Path) -> None:
    """Removes what runs that were killed have left behind."""
    for left in folder.glob("samtune-*/lock"):
        # A live run holds its lock; another user's cannot be opened.
        with contextlib.suppress(Timeout, OSError), FileLock(left, timeout=0):
            shutil.rmtree(left.parent, ignore_errors=True)
