"""Loss scaling over a step of several passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor


class LossScaling:
    """A loss scaler that sees all passes of a step and is updated once; without one, no scaling.

    `GradScaler.unscale_` accepts each optimizer once between two updates, but a step has several
    passes. So each pass is passed to it as a separate optimizer.
    """

    def __init__(self, scaler: torch.amp.GradScaler | None) -> None:
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        # The scaler identifies a pass by its id, so each must live until the update.
        self._passes: list[_Pass] = []

    @property
    def on(self) -> bool:
        """True if losses are scaled."""
        return self._scaler is not None

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss to differentiate."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def unscale_(self, parameters: Sequence[Tensor]) -> None:
        """Divide `.grad` of the parameters by the scale, in place."""
        if self._scaler is None or all(p.grad is None for p in parameters):
            return
        made = _Pass([{"params": list(parameters)}])
        self._scaler.unscale_(cast(torch.optim.Optimizer, made))
        self._passes.append(made)

    def add_overflow(self, device: torch.device) -> None:
        """Count an overflow that another process may have had, so that all scales stay equal."""
        overflow = torch.zeros((), device=device)
        overflow.grad = torch.full((), torch.inf, device=device)
        self.unscale_([overflow])

    def update(self) -> None:
        """Lower the scale if a pass overflowed, or raise it when it is due, and end the step."""
        if self._scaler is not None and self._passes:
            self._scaler.update()
            self._passes.clear()


@dataclass(eq=False)
class _Pass:
    """The part of an optimizer that `GradScaler.unscale_` reads."""

    param_groups: list[dict[str, list[Tensor]]]
