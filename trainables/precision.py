"""How a trial computes: the dtype of its passes, the memory layout, compiled or not.

Weights, their optimizer and the losses are float32 in all cases; what changes is the dtype that
`torch.autocast` gives to convolutions and matrix products. fp32 is torch's own: on CUDA its
convolutions may use TF32.
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
    """`precision` is fp32, bf16 or fp16; `device` is where the trial computes."""

    precision: str
    channels_last: bool
    compiled: bool
    device: torch.device

    @classmethod
    def of(cls, task: Mapping[str, Value], device: torch.device) -> Precision:
        """As the task says; auto is bf16 and channels_last on CUDA, fp32 and contiguous elsewhere.

        A GPU that has no bf16 of its own gets fp32.
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
        """Of autocast; None for none."""
        return _DTYPES[self.precision]

    @property
    def memory_format(self) -> torch.memory_format:
        """Of the batches and the model."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[object]:
        """For evaluation; training passes have the oracle's."""
        return (
            nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)
        )

    def scaler(self) -> torch.amp.GradScaler | None:
        """A loss scaler for fp16, whose gradients would vanish without; None for the others."""
        return torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None

    def place(self, model: nn.Module, architecture: Hashable) -> nn.Module:
        """The model on the device, in the layout; compiled if the task says so.

        Models of an equal `architecture` share what was compiled. Raises CompileError where no
        compiler is installed.
        """
        model = model.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        if self.compiled:
            compile_forward(model, (architecture, self))
        return model

    def facts(self) -> dict[str, Value]:
        """What the record holds of it."""
        return {
            "precision": self.precision,
            "compiled": self.compiled,
            "channels_last": self.channels_last,
        }


_compiled_for: Hashable = None


def compile_forward(model: nn.Module, program: Hashable, backend: str = "inductor") -> None:
    """Compiles `model.forward` in place, for batches of any size; nothing is compiled yet.

    The batch size is a symbol from the first batch on, so that an epoch's ragged last batch, or
    the part of a batch that a variant asks for, runs the same code (but for a batch of one, and on
    the CPU one below 16, which torch's kernels take another way: each is compiled once). Weights
    are arguments of that code, so SAM's second set of them is no reason to compile again, and
    neither is the next trial of a warm worker with the same `program`: what tells two
    architectures apart, and their dtype, layout and device. Compiled code is kept on disk for
    other processes.
    """
    global _compiled_for
    if backend == "inductor":
        _refuse_without_compiler()
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "samtune" / "inductor"))
    if program != _compiled_for:
        # torch counts recompilations by function, across models, and gives up after eight.
        torch.compiler.reset()
        _compiled_for = program
    forward = torch.compile(model.forward, backend=backend)

    def of_any_size(inputs: Tensor) -> Tensor:
        torch._dynamo.maybe_mark_dynamic(inputs, 0)
        outputs: Tensor = forward(inputs)
        return outputs

    # Not `torch.compile(model)`, whose state_dict has other names.
    model.forward = of_any_size


def _refuse_without_compiler() -> None:
    wanted = (os.environ.get("CXX", "g++"), "clang++", "c++")
    if not any(map(shutil.which, wanted)):
        raise CompileError(
            "task.compile is true, and torch needs a C++ compiler for that: none of "
            f"{', '.join(dict.fromkeys(wanted))} was found; install g++, or leave "
            "task.compile out"
        )
