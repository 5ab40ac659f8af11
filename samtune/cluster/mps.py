"""The daemon of NVIDIA's MPS on this machine.

With MPS, several processes compute on one GPU at the same time; without it they take turns. A
process finds the daemon by the environment that it has when it first uses CUDA.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from samtune.cluster.nvidia import gpus_of_driver
from samtune.record.folder import RunError

CONTROL = "nvidia-cuda-mps-control"
WITHOUT_MPS = "without it: --set resources.gpu_sharing=off"
"""The advice where MPS does not start."""
# It answers at once, unless it waits for clients that do not end. The guard ends it then.
_PATIENCE_S = 15.0
_MIB = 2**20


@contextmanager
def daemon(share: float, folder: Path) -> Iterator[dict[str, str]]:
    """Run the daemon in the block, and yield the environment of its clients.

    Args:
        share: The share of a GPU that a client has; it limits the client's memory there.
        folder: A new folder, for pipes and logs. The daemon and its servers write there, so a
            guard that ends all writers ends them too.

    Raises:
        RunError: MPS is not installed or does not start (exit code 5).
    """
    if shutil.which(CONTROL) is None:
        raise RunError(
            f"resources.gpu_sharing is mps, and there is no {CONTROL} on the PATH; it comes with "
            f"NVIDIA's driver for Linux; {WITHOUT_MPS}",
            exit_code=5,
        )
    settings = {
        "CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"),
        "CUDA_MPS_LOG_DIRECTORY": str(folder / "log"),
        # The daemon numbers the GPUs as the driver and Ray do.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    for name in ("pipe", "log"):
        (folder / name).mkdir(parents=True)
    with open(folder / "said", "w+") as said:
        try:
            # The daemon keeps this file open, so a guard can find the daemon.
            _run(["-d"], settings, said, pass_fds=[said.fileno()])
            if limits := _limits(share):
                _run([], settings, said, typed=limits)
        except (OSError, subprocess.SubprocessError) as error:
            said.seek(0)
            first = (said.read().strip() or str(error)).splitlines()[0]
            raise RunError(
                f"{CONTROL} did not start ({first}); does another user's MPS run on this machine? "
                f"{WITHOUT_MPS}",
                exit_code=5,
            ) from None
        try:
            yield settings
        finally:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                _run([], settings, said, typed="quit\n")


def _limits(share: float) -> str:
    """Return the commands that limit a client's memory on each GPU; "" for an unknown size."""
    seen = gpus_of_driver()
    sizes = seen.memory if seen else ()
    command = "set_default_device_pinned_mem_limit"
    return "".join(
        f"{command} {index} {int(share * size) // _MIB}M\n" for index, size in enumerate(sizes)
    )


def _run(
    words: list[str],
    settings: Mapping[str, str],
    said: IO[str],
    *,
    typed: str = "",
    pass_fds: list[int] | None = None,
) -> None:
    # With the variable, the daemon would number only the GPUs in it; Ray numbers all of them.
    own = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    subprocess.run(
        [CONTROL, *words],
        input=typed,
        env=own | dict(settings),
        text=True,
        stdout=said,
        stderr=said,
        pass_fds=pass_fds or [],
        check=True,
        timeout=_PATIENCE_S,
    )
