"""The device of a trial: the GPU that its space asks for, or the CPU."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from samtune.errors import SamtuneError
from trainables.allocator import keep_freed_memory

# Torch's words after the name of an operation.
_NO_KERNEL = " does not have a deterministic implementation"


class DeviceError(SamtuneError):
    """The space asks for a GPU that torch cannot use, or for equal bits that it cannot give."""

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


def prepare(device: torch.device) -> None:
    """Set up the process for a trial on a device; an earlier trial's peak is forgotten."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        # Batches have two sizes, so the search for the fastest convolutions soon ends.
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    else:
        keep_freed_memory()


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return the most memory that was used so far, in MiB, as metrics of a trial.

    The host's is that of the process, so earlier trials count too.
    """
    # In kilobytes on Linux, in bytes on macOS.
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    on_gpu = device.type == "cuda"
    return {
        "peak_rss_mb": rss / (2**20 if sys.platform == "darwin" else 2**10),
        "peak_gpu_mb": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else 0.0,
    }


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """Make each operation in the block give the same bits in every run.

    If `on` is false, the mode of the process stays as it is.

    Raises:
        DeviceError: An operation cannot.
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
    except RuntimeError as error:
        operation, found, _ = str(error).partition(_NO_KERNEL)
        if not found:
            raise
        raise DeviceError(
            f"task.deterministic: {operation} has no kernel that computes the same bits each "
            "time; set task.deterministic to false, or train a model without it"
        ) from error
    finally:
        torch.set_deterministic_debug_mode(before)


def no_gpu() -> str | None:
    """Return a sentence that says why torch can use no GPU here; None if it can."""
    if torch.cuda.is_available():
        return None
    built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "has no CUDA"
    try:
        torch.cuda.init()
        why = "it finds no device"
    except Exception as error:
        # For example: the NVIDIA driver on your system is too old (found version 12040).
        why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return (
        f"resources.gpus is above 0, and torch cannot use a GPU here: torch {torch.__version__} "
        f"{built}, and {why}; install a torch for this machine's driver (samtune doctor shows "
        "both), or --set resources.gpus=0"
    )
