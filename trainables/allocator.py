"""Setting of the CPU allocator that keeps freed memory in the process for the next step."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """Make glibc keep freed memory; do nothing with another allocator.

    By default glibc returns free memory at the top of its heap, and every tensor above 32 MB, to
    the system and gets it back page by page. For the activations of a small network that is
    thousands of page faults per step. The process grows to its peak in any case, and then stays
    there.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    # Large tensors then come from the heap as well, not from maps of their own.
    mallopt(_M_TRIM_THRESHOLD, _MOST)
    mallopt(_M_MMAP_MAX, 0)
