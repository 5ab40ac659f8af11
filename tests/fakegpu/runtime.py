"""Builds the fake GPU, and starts Python on it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).parent
_SOURCES = _HERE / "runtime"
_PRELOADED = ("kernels", "device", "memory", "streams", "cublas", "cudnn", "exit")


def missing() -> str | None:
    """Return what this machine lacks for the fake GPU, or None."""
    import torch

    if sys.platform != "linux":
        return f"the fake GPU is preloaded, which {sys.platform} does in another way"
    if shutil.which("gcc") is None:
        return "no gcc to build the fake GPU with"
    if not (torch.version.cuda or "").startswith("13."):
        return f"the fake GPU is a CUDA 13, and torch is built for {torch.version.cuda}"
    if _headers() is None:
        return "torch is here without the headers of CUDA that its wheel brings"
    if torch.cuda.is_available():
        return "a real GPU is here"
    return None


def build(folder: Path) -> dict[str, str]:
    """Build the libraries into `folder`; return the environment in which Python has a GPU."""
    headers = _headers()
    assert headers is not None
    runtime = folder / "libfakecuda.so"
    commands = [
        [*(f"{name}.c" for name in _PRELOADED), "-o", str(runtime)],
        ["driver.c", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")],
        ["nvml.c", "-Wl,-soname,libnvidia-ml.so.1", "-o", str(folder / "libnvidia-ml.so.1")],
    ]
    words = ["gcc", "-O1", "-shared", "-fPIC", "-w", "-I.", f"-I{headers}"]
    started = [subprocess.Popen([*words, *command], cwd=_SOURCES) for command in commands]
    assert [process.wait() for process in started] == [0] * len(started)
    return {
        "LD_PRELOAD": str(runtime),
        "LD_LIBRARY_PATH": str(folder),
        "TRITON_LIBCUDA_PATH": str(folder),
        # The older interface of cuDNN is the one that can be faked.
        "TORCH_CUDNN_V8_API_DISABLED": "1",
        "SAMTUNE_FAKE_GPU": "1",
    }


def _headers() -> Path | None:
    found = importlib.util.find_spec("nvidia")
    for place in (found.submodule_search_locations or ()) if found else ():
        folder = Path(place) / "cu13" / "include"
        if (folder / "cuda_runtime_api.h").is_file():
            return folder
    return None


def inside(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the tests inside on the fake GPU, with pytest's own words."""
    with tempfile.TemporaryDirectory() as made:
        environment = os.environ | build(Path(made))
        command = [sys.executable, "-m", "pytest", "-n", "0", str(_HERE / "inside"), *words]
        return subprocess.run(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )


if __name__ == "__main__":
    # python tests/fakegpu/runtime.py -k oom
    ended = inside(*sys.argv[1:])
    print(ended.stdout)
    raise SystemExit(ended.returncode)
