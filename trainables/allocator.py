"""How a process that trains on the CPU keeps the memory that a step frees, for the next one."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Has glibc hold on to what is freed; another allocator is left as it is.

    It gives back what lies free at the top of its heap, and each tensor of more than 32 MB, and
    takes it anew page by page: for a small network's activations that is thousands of page faults
    a step. The process grows to its peak in any case, and now stays there.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    # Without maps of their own, large tensors come from the heap as well.
    mallopt(_M_TRIM_THRESHOLD, _MOST)
    mallopt(_M_MMAP_MAX, 0)
