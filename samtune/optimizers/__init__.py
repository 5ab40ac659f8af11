"""Sharpness-aware optimizers for PyTorch. Needs torch and nothing else of samtune.

    optimizer = ASAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.5)
    for inputs, targets in batches:
        result = optimizer.step(GradientOracle(model, inputs, targets, loss_fn))

`loss_fn(outputs, targets)` returns one loss per sample: `CrossEntropyLoss(reduction="none")`.
"""

from samtune.optimizers.adamw import AdamW
from samtune.optimizers.asam import ASAM
from samtune.optimizers.base import BASES, BaseOptimizer
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.sam import SAM
from samtune.optimizers.sgd import SGD
from samtune.optimizers.variant import Knob, KnobError, StepResult, Variant, knob

VARIANTS: dict[str, type[Variant]] = {v.name: v for v in (SGD, AdamW, SAM, ASAM)}
"""Every variant by its name in a space; being here is what puts one through the tests."""

__all__ = [
    "ASAM",
    "BASES",
    "SAM",
    "SGD",
    "VARIANTS",
    "AdamW",
    "BaseOptimizer",
    "GradientOracle",
    "Knob",
    "KnobError",
    "StepResult",
    "Variant",
    "knob",
]
