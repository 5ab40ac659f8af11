"""Check that a GPU has room for one more trial."""

from __future__ import annotations

from collections.abc import Callable

from samtune.errors import SamtuneError
from samtune.trial import TrialConfig

# The CUDA contexts and libraries of the other trials take some of each trial's share.
_SHARE = 0.8


class GpuMemoryError(SamtuneError, MemoryError):
    """An error for too little free GPU memory, recorded as `oom`. The trial is retried."""


def warning(
    trial: TrialConfig, wanted_gb: float, info: Callable[[], tuple[int, int]] | None = None
) -> str | None:
    """Return a warning if little memory is free on the trial's GPU, else None.

    A trial with a GPU of its own is checked only if its space asks for memory.

    Args:
        trial: The trial that is about to start.
        wanted_gb: The memory that the space asks for, in GB; 0 for none.
        info: Returns the free and the total bytes of the GPU. By default torch does, after its
            cache of the last trial is emptied.

    Raises:
        GpuMemoryError: If less than `wanted_gb` is free.
    """
    if not (wanted_gb or 0 < trial.gpus < 1):
        return None
    if info is None:
        import torch

        if not torch.cuda.is_available():
            return None
        torch.cuda.empty_cache()
        info = torch.cuda.mem_get_info
    free, total = (size / 1e9 for size in info())
    if free < wanted_gb:
        if total < wanted_gb:
            way = "lower it"
        elif trial.gpus < 1:
            way = "raise resources.gpus, or end other programs on the GPU"
        else:
            way = "end other programs on the GPU, or lower it"
        raise GpuMemoryError(
            f"{free:.1f} of {total:.1f} GB are free on the GPU, and resources.gpu_memory_gb asks "
            f"for {wanted_gb:g}; {way}"
        )
    share = trial.gpus * total
    if not wanted_gb and free < _SHARE * share:
        return (
            f"{free:.1f} of {total:.1f} GB are free on the GPU, less than resources.gpus "
            f"{trial.gpus:g} of it; set resources.gpu_memory_gb to refuse such a start"
        )
    return None
