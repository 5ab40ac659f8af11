"""Settings of a trial's computation: dtype of its passes, memory layout, and compilation.

Weights, optimizer state and losses are always float32. Precision sets the dtype in which
`torch.autocast` computes convolutions and matrix products. fp32 is torch's default: convolutions
on CUDA may use TF32.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from samtune.errors import SamtuneError
from samtune.trial import Value

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MEMORY_FORMATS = ("auto", "contiguous", "channels_last")
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class CompileError(SamtuneError):
    """The task asks for a compiled model, and no compiler is installed."""

    exit_code = 5


@dataclass(frozen=True)
class Precision:
    """Settings of a trial's computation.

    Attributes:
        precision: fp32, bf16 or fp16.
        channels_last: layout of images and convolutions.
        compiled: the model is compiled.
        device: where the trial computes.
    """

    precision: str
    channels_last: bool
    compiled: bool
    device: torch.device

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
        return cls(precision, channels_last, bool(task["compile"]), device)

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

    def scaler(self) -> torch.amp.GradScaler | None:
        """Return a loss scaler for fp16, whose small gradients would become 0, otherwise None."""
        return torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None

    def place(self, model: nn.Module, architecture: Hashable) -> nn.Module:
        """Return the model on the device in its layout, compiled if the task says so.

        Models of equal `architecture` share compiled code.

        Raises:
            CompileError: no compiler is installed.
        """
        model = model.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        if self.compiled:
            _refuse_without_compiler(self.device)
            compile_forward(model, (architecture, self))
        return model

    def facts(self) -> dict[str, Value]:
        """Return the settings for the record."""
        return {
            "precision": self.precision,
            "compiled": self.compiled,
            "channels_last": self.channels_last,
        }


_compiled_for: Hashable = None


def compile_forward(model: nn.Module, program: Hashable, backend: str = "inductor") -> None:
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
    """
    global _compiled_for
    if backend == "inductor":
        # Otherwise each trial of a node starts as many compilers as the node has processors.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(torch.get_num_threads()))
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "samtune" / "inductor"))
    if program != _compiled_for:
        # torch counts recompilations per function, across models, and stops after eight.
        torch.compiler.reset()
        _compiled_for = program
    forward = torch.compile(model.forward, backend=backend)

    def of_any_size(inputs: Tensor) -> Tensor:
        torch._dynamo.maybe_mark_dynamic(inputs, 0)
        outputs: Tensor = forward(inputs)
        return outputs

    # `torch.compile(model)` would change the names in state_dict.
    model.forward = of_any_size


def _refuse_without_compiler(device: torch.device) -> None:
    # On a GPU, Triton builds its launchers in C.
    gpu = device.type == "cuda"
    if gpu:
        language, wanted = "C", (os.environ.get("CC", "gcc"), "clang", "cc")
    else:
        language, wanted = "C++", (os.environ.get("CXX", "g++"), "clang++", "c++")
    if not any(map(shutil.which, wanted)):
        raise CompileError(
            f"task.compile is true, and torch needs a {language} compiler for that: none of "
            f"{', '.join(dict.fromkeys(wanted))} was found; install {'gcc' if gpu else 'g++'}, or "
            "leave task.compile out"
        )
