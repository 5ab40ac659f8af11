"""The GPUs of this machine as NVIDIA's driver lists them, without torch."""

from __future__ import annotations

import ctypes
from typing import NamedTuple


class Seen(NamedTuple):
    """The GPUs that the driver sees, its version, and the bytes of memory of each GPU."""

    gpus: int
    version: str
    memory: tuple[int, ...] = ()


class _Memory(ctypes.Structure):
    """The driver's nvmlMemory_t: bytes."""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def gpus_of_driver() -> Seen | None:
    """Return what the driver sees; None without a driver or a GPU."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    count, text = ctypes.c_uint(), ctypes.create_string_buffer(80)
    if nvml.nvmlInit_v2():
        return None
    try:
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) or not count.value:
            return None
        nvml.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text)))
        memory = [_memory_of(nvml, index) for index in range(count.value)]
        return Seen(count.value, text.value.decode(), tuple(memory) if all(memory) else ())
    finally:
        nvml.nvmlShutdown()


def _memory_of(nvml: ctypes.CDLL, index: int) -> int:
    """Return the bytes of a GPU; 0 if the driver does not say."""
    device, found = ctypes.c_void_p(), _Memory()
    if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)):
        return 0
    return 0 if nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(found)) else found.total
