"""The GPUs of this machine as NVIDIA's driver lists them, without torch."""

from __future__ import annotations

import ctypes
from typing import NamedTuple


class Seen(NamedTuple):
    """The GPUs that the driver sees, and its version."""

    gpus: int
    version: str


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
        return Seen(count.value, text.value.decode())
    finally:
        nvml.nvmlShutdown()
