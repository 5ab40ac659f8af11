"""The result of a step, and its cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

Passes = tuple[float, float]
"""Forward and backward passes over the batch."""


@dataclass(frozen=True, eq=False)
class StepResult:
    """The loss, outputs and costs of a step.

    Attributes:
        loss: mean loss of the batch at the weights before the step, shape (); not synchronised.
        outputs: the model's outputs there, detached; not synchronised.
        forward_samples: samples of all forward passes.
        backward_samples: samples of all backward passes.
        skipped: True where a loss or gradient was not finite and nothing was changed.
        sharp_loss: mean loss of the batch at the perturbed weights, shape (); not synchronised.
            None in a step without a second pass over the batch.
        cosine: cosine of the gradients at both weights, shape (); not synchronised. None in a step
            without a second pass, or if the oracle lacks `compare`.
    """

    loss: Tensor
    outputs: Any
    forward_samples: int
    backward_samples: int
    skipped: bool
    sharp_loss: Tensor | None = None
    cosine: Tensor | None = None
