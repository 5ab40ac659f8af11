"""The device of a trial: the GPU that its space asks for, or the CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from samtune.errors import SamtuneError


class DeviceError(SamtuneError):
    """The space asks for a GPU, and torch can use none."""

    exit_code = 5


def device_for(gpus: float) -> torch.device:
    """Return the device of a trial with so many GPUs.

    Raises:
        DeviceError: It has some, and torch cannot use them.
    """
    if not gpus:
        return torch.device("cpu")
    if (problem := no_gpu()) is not None:
        raise DeviceError(problem)
    return torch.device("cuda")


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Compute the same bits in every run inside the block; an operation that cannot is an error.

    Off, the mode of the process stays as it is.
    """
    if not on:
        yield
        return
    # cuBLAS reads it when a process first uses the GPU.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.get_deterministic_debug_mode()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def no_gpu() -> str | None:
    """Return in a sentence why torch can use no GPU here; None if it can."""
    if torch.cuda.is_available():
        return None
    built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "has no CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        why = "it finds no device"
    except Exception as error:
        # For example: the NVIDIA driver on your system is too old (found version 12040).
        why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return (
        f"resources.gpus is above 0, and torch cannot use a GPU here: torch {torch.__version__} "
        f"{built}, and {why}; install a torch for this machine's driver (samtune doctor shows "
        "both), or --set resources.gpus=0"
    )
