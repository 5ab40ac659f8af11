"""Schedules of the learning rate over the whole budget of a trial.

Each is a closed form of the share of the budget that is spent, whatever its unit: torch's
schedulers count epochs, which a budget of compute or seconds does not know beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from samtune.optimizers import Knob
from samtune.optimizers.knobs import KnobError
from samtune.trial import Value

KINDS = ("cosine", "constant", "linear", "step", "multistep", "poly")


class _MilestonesKnob(Knob):
    """Shares of the budget, ascending, with commas between them."""

    def check(self, value: object) -> str:
        text = str(value)
        try:
            shares = _shares(text)
        except ValueError:
            shares = []
        if not shares or shares != sorted(set(shares)) or not 0 < shares[0] <= shares[-1] < 1:
            raise KnobError(
                f"{self.name} is {value!r}; it must be shares of the budget in ascending order, "
                'each above 0 and below 1, such as "0.5,0.75"'
            )
        return text


KNOBS: tuple[Knob, ...] = (
    Knob(
        name="warmup",
        kind=float,
        default=0.0,
        low=0.0,
        safe=(0.0, 40.0),
        doc="epochs at the start in which lr rises in a line to its schedule; part of the budget",
        source="Goyal et al. 2017, section 2.2: 5; Dosovitskiy et al. 2021 on ImageNet: 32",
    ),
    Knob(
        name="schedule",
        kind=str,
        default="cosine",
        choices=KINDS,
        doc="of lr over the budget; cosine, linear, poly: down to min_lr; step, multistep: by "
        "factors of lr_gamma",
        source="Loshchilov and Hutter 2017; torch.optim.lr_scheduler",
    ),
    Knob(
        name="min_lr",
        kind=float,
        default=0.0,
        low=0.0,
        safe=(0.0, 0.1),
        doc="the lowest lr of the schedule",
        source="eta_min of torch's CosineAnnealingLR",
    ),
    Knob(
        name="every",
        kind=str,
        default="step",
        choices=("step", "epoch"),
        doc="how often the schedule changes lr",
        source="step: as in timm and DeiT; epoch: as in most code of SAM's papers",
    ),
    Knob(
        name="lr_gamma",
        kind=float,
        default=0.1,
        low=0.0,
        high=1.0,
        safe=(0.05, 0.5),
        doc="factor of lr at each step of schedule step and multistep",
        source="He et al. 2016: 0.1; Zagoruyko and Komodakis 2016: 0.2",
    ),
    Knob(
        name="lr_step",
        kind=float,
        default=0.3,
        low=0.01,
        high=1.0,
        safe=(0.1, 0.5),
        doc="share of the budget between two steps of schedule step",
        source="30 of 90 epochs on ImageNet, He et al. 2016",
    ),
    _MilestonesKnob(
        name="lr_milestones",
        kind=str,
        default="0.5,0.75",
        doc="shares of the budget at which schedule multistep makes a step: [0.5, 0.75]",
        lists=True,
        source="He et al. 2016: half and three quarters on CIFAR-10",
    ),
    Knob(
        name="lr_power",
        kind=float,
        default=0.9,
        low=0.1,
        high=10.0,
        safe=(0.5, 3.0),
        doc="exponent of schedule poly",
        source="Chen et al. 2017 (DeepLab): 0.9",
    ),
)


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a share of its full value.

    Attributes:
        kind: One of KINDS.
        warmup: Epochs in which the learning rate rises.
        least: The share that the schedule does not fall below.
        by_epoch: True if the learning rate changes between epochs only.
        gamma: The factor of each step.
        steps: The progress at which the steps are made.
        power: The exponent of `poly`.
    """

    kind: str = "cosine"
    warmup: float = 0.0
    least: float = 0.0
    by_epoch: bool = False
    gamma: float = 0.1
    steps: tuple[float, ...] = ()
    power: float = 1.0

    @classmethod
    def of(cls, task: Mapping[str, Value], lr: float) -> Schedule:
        """Return the schedule that the checked words of a task describe, for a learning rate."""
        kind = str(task["schedule"])
        steps: tuple[float, ...] = ()
        if kind == "multistep":
            steps = tuple(_shares(str(task["lr_milestones"])))
        elif kind == "step":
            width = float(task["lr_step"])
            steps = tuple(k * width for k in range(1, math.ceil(1 / width)) if k * width < 1)
        return cls(
            kind=kind,
            warmup=float(task["warmup"]),
            least=min(1.0, float(task["min_lr"]) / lr) if lr > 0 else 0.0,
            by_epoch=task["every"] == "epoch",
            gamma=float(task["lr_gamma"]),
            steps=steps,
            power=float(task["lr_power"]),
        )

    def share(self, progress: float) -> float:
        """Return the share for a progress from 0 to 1 through the budget, without warm-up."""
        left = max(0.0, 1 - progress)
        match self.kind:
            case "cosine":
                falling = (1 + math.cos(math.pi * progress)) / 2
            case "linear":
                falling = left
            case "poly":
                falling = left**self.power
            case "step" | "multistep":
                # Counted in floats: a step at 0.3 is due at 3 of 10 epochs.
                made = sum(progress >= step - 1e-9 for step in self.steps)
                return max(self.least, self.gamma**made)
            case _:
                return 1.0
        return self.least + (1 - self.least) * falling


def _shares(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]
