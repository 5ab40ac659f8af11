"""Losses and gradients that are not finite, over the passes and processes of a step."""

from __future__ import annotations

import torch
from torch import Tensor

from samtune.optimizers.processes import Processes
from samtune.optimizers.scaling import LossScaling
from samtune.optimizers.tensors import Gradients, global_norm


class NonFiniteError(ArithmeticError):
    """A loss or gradient that is not finite; `Variant.step` skips the step."""


class FiniteCheck:
    """A check on the device that passes were finite. It raises in all processes together."""

    def __init__(self, processes: Processes, scaling: LossScaling) -> None:
        self._processes = processes
        self._scaling = scaling
        self._finite: list[Tensor] = []

    def add(self, loss: Tensor, gradients: Gradients) -> None:
        """Add a pass; the host does not wait for the device."""
        finite = torch.isfinite(loss)
        if gradients:
            finite = finite & torch.isfinite(global_norm(gradients)).to(loss.device)
        self._finite.append(finite)

    def settle(self) -> None:
        """Raise NonFiniteError if a pass was not finite, here or in another process.

        Waits for the device, but only if a pass was added. Collective then.
        """
        if not self._finite:
            return
        broken = (~torch.stack(self._finite).all()).float()
        self._finite.clear()
        self._processes.most_(broken)
        if broken.item():
            if not self._processes.alone:
                self._scaling.add_overflow(broken.device)
            raise NonFiniteError("a loss or gradient is not finite")
