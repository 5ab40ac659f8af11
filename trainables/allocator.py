"""How a process that trains on the CPU keeps the memory that a step frees, for the next one."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The largest that glibc takes for each.
_MOST_AT_THE_TOP, _MOST_FROM_THE_HEAP = 2**31 - 1, 2**25


def keep_freed_memory() -> bool:
    """Has glibc hold on to what is freed; False where the allocator is another.

    It gives back what lies free at the top of its heap, and takes it anew page by page: for a
    small network's activations that is thousands of page faults a step. The process grows to its
    peak in any case, and now stays there.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    # Setting either stops glibc from moving both as it goes along, so both are set.
    settings = (_M_MMAP_THRESHOLD, _MOST_FROM_THE_HEAP), (_M_TRIM_THRESHOLD, _MOST_AT_THE_TOP)
    return all([mallopt(which, value) == 1 for which, value in settings])
