"""Settings of a trial's computation: dtype of its passes, memory layout, and compilation.

Weights, optimizer state and losses are always float32. Precision sets the dtype in which
`torch.autocast` computes convolutions and matrix products. fp32 is torch's default: convolutions
on CUDA may use TF32.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from samtune.errors import SamtuneError
from samtune.trial import Value

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MEMORY_FORMATS = ("auto", "contiguous", "channels_last")
_WITHOUT = "--set task.compile=false"
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class CompileError(SamtuneError):
    """The task asks for a compiled model, and something that torch needs for it is missing."""

    exit_code = 5


@dataclass(frozen=True)
class Precision:
    """Settings of a trial's computation.

    Attributes:
        precision: fp32, bf16 or fp16.
        channels_last: layout of images and convolutions.
        compiled: the model is compiled.
        combo_kernels: kernels that do not need each other are compiled into one.
        device: where the trial computes.
    """

    precision: str
    channels_last: bool
    compiled: bool
    device: torch.device
    combo_kernels: bool = False

    @classmethod
    def of(cls, task: Mapping[str, Value], device: torch.device) -> Precision:
        """Return the settings of a task.

        auto means bf16 and channels_last on CUDA, fp32 and contiguous elsewhere, and fp32 on a GPU
        without hardware for bf16.
        """
        on_gpu = device.type == "cuda"
        precision = str(task["precision"])
        if precision == "auto":
            fast = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bf16" if fast else "fp32"
        layout = task["memory_format"]
        channels_last = on_gpu if layout == "auto" else layout == "channels_last"
        combo = bool(task["compile"] and task["combo_kernels"])
        return cls(precision, channels_last, bool(task["compile"]), device, combo)

    @property
    def dtype(self) -> torch.dtype | None:
        """Dtype of autocast, None without autocast."""
        return _DTYPES[self.precision]

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of the batches and the model."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for evaluation; training passes use the oracle's."""
        return (
            nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)
        )

    def uncompiled(self) -> AbstractContextManager[object]:
        """Return the context in which a compiled model runs without its compiled code."""
        if not self.compiled:
            return nullcontext()
        stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
        return stance

    def scaler(self) -> torch.amp.GradScaler | None:
        """Return a loss scaler for fp16, which rounds small gradients to 0; otherwise None."""
        return torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None

    def place(self, model: nn.Module, architecture: Hashable) -> nn.Module:
        """Return the model on the device in its layout, compiled if the task says so.

        Models of equal `architecture` share compiled code.

        Raises:
            CompileError: something that torch needs to compile is not installed.
        """
        # torch's type information lacks this form of the call.
        model = model.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        if self.compiled:
            _find_compiler(self.device)
            compile_forward(model, (architecture, self), combo_kernels=self.combo_kernels)
        return model

    def facts(self) -> dict[str, Value]:
        """Return the settings for the record."""
        return {
            "precision": self.precision,
            "compiled": self.compiled,
            "channels_last": self.channels_last,
        }


_compiled_for: Hashable = None


def compile_forward(
    model: nn.Module,
    program: Hashable,
    backend: str = "inductor",
    *,
    combo_kernels: bool = False,
) -> None:
    """Compile `model.forward` in place for batches of any size, at its first call.

    The batch size is a symbol from the first batch on. So the last batch of an epoch, or the part
    of a batch that a variant asks for, runs the same code. Exceptions are batches of one and, on
    the CPU, those below 16, where torch uses other kernels: each is compiled once. Weights are
    arguments of the code, so SAM's second set of weights is no reason to compile again. Neither is
    the next trial of a reused worker with the same program. Compiled code is kept on disk for
    other processes.

    Args:
        model: changed in place.
        program: the key of the compiled program: architecture, dtype, layout and device.
        backend: of `torch.compile`.
        combo_kernels: put kernels that do not need each other into one, which launches fewer.
    """
    global _compiled_for
    if backend == "inductor":
        # Otherwise each trial of a node starts as many compilers as the node has processors.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(torch.get_num_threads()))
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache()))
    if program != _compiled_for:
        # torch counts recompilations per function, across models, and stops after eight.
        torch.compiler.reset()
        _compiled_for = program
    options: dict[str, Any] | None = {"combo_kernels": True} if combo_kernels else None
    forward = torch.compile(model.forward, backend=backend, options=options)

    def of_any_size(inputs: Tensor) -> Tensor:
        # torch documents this function under this name, and has no public one.
        torch._dynamo.maybe_mark_dynamic(inputs, 0)
        outputs: Tensor = forward(inputs)
        return outputs

    # `torch.compile(model)` would change the names in state_dict.
    model.forward = of_any_size


@contextmanager
def compiling() -> Iterator[None]:
    """Let one process of a machine compile in the block at a time.

    The trials of a node compile the same program. The first one does the work, and the others
    then find its code on disk.
    """
    folder = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or _cache())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".compiling.lock")
        lock.acquire()
    except OSError:
        # Without a cache folder processes cannot share compiled code, so waiting gains nothing.
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _cache() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "samtune" / "inductor"


def cannot_compile(on_gpu: bool) -> str | None:
    """Return in a sentence what this machine lacks for compiled models; None if nothing."""
    language, variable, wanted, found = _compiler(on_gpu)
    if found is None and os.environ.get(variable, "").strip():
        return (
            f"task.compile is true, and {variable} names {wanted[0]}, which is not there; correct "
            f"it, unset it so that a {language} compiler is looked for, or {_WITHOUT}"
        )
    if found is None:
        return (
            f"task.compile is true, and torch needs a {language} compiler for that: none of "
            f"{', '.join(wanted)} was found; install {wanted[0]}, or {_WITHOUT}"
        )
    headers = Path(sysconfig.get_path("include"))
    if sys.platform == "linux" and not (headers / "Python.h").is_file():
        return (
            "task.compile is true, and torch needs the headers of Python for that: there is no "
            f"Python.h in {headers}; install python3-dev (python3-devel on Fedora), or {_WITHOUT}"
        )
    if on_gpu and importlib.util.find_spec("triton") is None:
        return (
            "task.compile is true, and torch needs triton for that on a GPU: pip install triton, "
            f"or {_WITHOUT}"
        )
    return None


def _find_compiler(device: torch.device) -> None:
    """Set CC or CXX to the compiler that is installed: torch looks for fewer names.

    Raises:
        CompileError: It is not installed, or something else that torch needs.
    """
    on_gpu = device.type == "cuda"
    if (problem := cannot_compile(on_gpu)) is not None:
        raise CompileError(problem)
    _, variable, _, found = _compiler(on_gpu)
    os.environ[variable] = str(found)


def _compiler(on_gpu: bool) -> tuple[str, str, tuple[str, ...], str | None]:
    """Return its language, the variable that names it, what is looked for and what is found."""
    # On a GPU, Triton builds its launchers in C.
    if on_gpu:
        language, variable, known = "C", "CC", ("gcc", "clang", "cc")
    else:
        language, variable, known = "C++", "CXX", ("g++", "clang++", "c++")
    named = os.environ.get(variable, "").strip()
    wanted = (named,) if named else known
    found = next((name for name in wanted if shutil.which(name.split()[0])), None)
    return language, variable, wanted, found
