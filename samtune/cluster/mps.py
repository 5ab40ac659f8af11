"""NVIDIA's MPS, by which processes compute on one GPU at once in place of taking turns.

A daemon runs beside Ray while the sweep does. Ray's workers find it by an environment variable.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samtune.cluster.nvidia import gpus_of_driver
from samtune.record.folder import RunError

CONTROL = "nvidia-cuda-mps-control"
# The daemon ends when the last of its clients has; Ray's workers have ended by then.
_PATIENCE_S = 30.0
_MIB = 2**20


@contextmanager
def shared_gpus(share: float, folder: Path) -> Iterator[dict[str, str]]:
    """Run MPS in the block, and yield the environment of the processes that are to use it.

    Args:
        share: The share of a GPU that a process has; it limits the process's memory there.
        folder: A new folder, for the daemon's pipes and logs. A guard that ends what writes there
            ends the daemon too.

    Raises:
        RunError: MPS is not installed or does not start (exit code 5).
    """
    if shutil.which(CONTROL) is None:
        raise RunError(
            f"resources.gpu_sharing is mps, and there is no {CONTROL} on the PATH; it comes with "
            "NVIDIA's driver for Linux. Without it: --set resources.gpu_sharing=off",
            exit_code=5,
        )
    settings = {
        "CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"),
        "CUDA_MPS_LOG_DIRECTORY": str(folder / "log"),
        **_limit(share),
    }
    for name in ("pipe", "log"):
        (folder / name).mkdir(parents=True)
    started = _control(["-d"], settings)
    if started.returncode:
        said = (started.stderr or started.stdout).strip().splitlines() or ["it says nothing"]
        raise RunError(
            f"{CONTROL} did not start ({said[0]}); does another user's MPS run on this machine? "
            "Without it: --set resources.gpu_sharing=off",
            exit_code=5,
        )
    try:
        yield settings
    finally:
        # If it does not answer, the guard ends it.
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            _control([], settings, typed="quit\n")


def _limit(share: float) -> dict[str, str]:
    """Return the limit of a process's memory on each GPU; none if the driver does not say."""
    seen = gpus_of_driver()
    if seen is None or not seen.memory:
        return {}
    sizes = (f"{index}={int(share * size) // _MIB}M" for index, size in enumerate(seen.memory))
    return {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": ",".join(sizes)}


def _control(
    words: list[str], settings: dict[str, str], typed: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CONTROL, *words],
        input=typed,
        env={**os.environ, **settings},
        text=True,
        capture_output=True,
        check=False,
        timeout=_PATIENCE_S,
    )
