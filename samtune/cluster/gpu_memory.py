"""Whether a GPU that trials share has room for one more."""

from __future__ import annotations

from collections.abc import Callable

from samtune.errors import SamtuneError
from samtune.trial import TrialConfig

# Contexts and libraries of the trials beside it take some of what each is promised.
_SHARE = 0.8


class GpuMemoryError(SamtuneError, MemoryError):
    """Too little memory is free on the GPU; recorded as `oom`, and tried again."""


def warning(
    trial: TrialConfig, wanted_gb: float, info: Callable[[], tuple[int, int]] | None = None
) -> str | None:
    """What is odd about the free memory of the trial's GPU, None where nothing is.

    A trial that has its GPU to itself is asked only if its space asks for memory.

    `info` answers with free and total bytes of the GPU; torch is asked by default, after its
    cache of the last trial is emptied. Raises GpuMemoryError when less than `wanted_gb` is free.
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
        raise GpuMemoryError(
            f"{free:.1f} of {total:.1f} GB are free on the GPU, and resources.gpu_memory_gb asks "
            f"for {wanted_gb:g}; raise resources.gpus, or end what else runs there"
        )
    share = trial.gpus * total
    if not wanted_gb and free < _SHARE * share:
        return (
            f"{free:.1f} of {total:.1f} GB are free on the GPU, less than resources.gpus "
            f"{trial.gpus:g} of it; set resources.gpu_memory_gb to refuse such a start"
        )
    return None
