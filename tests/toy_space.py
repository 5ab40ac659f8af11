"""A toy trainable, the spaces that name it, and what such a file is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from samtune.space.search_space import SearchSpace, SpaceError

HEAD = "samtune: 1\ntrainable: labtrainables.mod:toy\n"
SCHEDULED = (
    "knobs:\n"
    "  schedule: {choice: [constant, linear]}\n"
    "  end: {min: 0.01, max: 1, when: {schedule: linear}}\n"
)

STUB = """
from dataclasses import dataclass
from types import SimpleNamespace


@dataclass(frozen=True)
class Knob:
    name: str
    kind: type
    default: object
    low: float | None = None
    high: float | None = None
    safe: tuple | None = None
    choices: tuple | None = None
    source: str = "Toy et al. 2020"

    def check(self, value):
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} is {value!r}; it must be {' or '.join(self.choices)}")
        if self.kind is bool and not isinstance(value, bool):
            raise ValueError(f"{self.name} is {value!r}; it must be true or false")
        if self.kind is int and not isinstance(value, int):
            raise ValueError(f"{self.name} is {value!r}; it must be a whole number")
        if self.low is not None and value < self.low:
            raise ValueError(f"{self.name} is {value!r}; it must be at least {self.low:g}")
        return float(value) if self.kind is float else value


def table(*knobs):
    return {knob.name: knob for knob in knobs}


LR = Knob("lr", float, 0.1, low=0, safe=(1e-4, 1))
OWN = {
    "toy": table(
        Knob("rho", float, 0.05, low=0, safe=(0.01, 0.5)),
        Knob("m", int, 4, low=1),
        Knob("schedule", str, "constant", choices=("constant", "linear")),
        Knob("end", float, 0.01, low=0),
        Knob("late", float, 0.5),
    ),
    "other": table(Knob("gamma_kept", float, 0.5)),
}
BASE = {
    "sgd": table(LR, Knob("momentum", float, 0.9)),
    "adamw": table(LR, Knob("beta1", float, 0.9)),
}


class Trainable:
    bases = ("sgd", "adamw")
    task = table(
        Knob("dataset", str, "digits", choices=("digits", "cifar10")),
        Knob("model", str, "small_cnn", choices=("small_cnn",)),
        Knob("label_noise", float, 0.0, low=0),
        Knob("batch_size", int, 64, low=1),
    )

    def __init__(self, variant):
        self.variant = variant

    def knobs(self, base):
        return {**OWN[self.variant], **BASE[base]}

    def __call__(self, config):
        raise NotImplementedError("the spaces of these tests are read, and never trained")


toy = Trainable("toy")
other = Trainable("other")


def plain(config):
    raise NotImplementedError("the spaces of these tests are read, and never trained")
"""


def load(body: str, *overrides: str, name: str = "lab.yaml", head: str = HEAD) -> SearchSpace:
    Path(name).write_text(head + body)
    return SearchSpace.load(name, overrides)


def messages(body: str, *overrides: str, head: str = HEAD) -> list[str]:
    with pytest.raises(SpaceError) as caught:
        load(body, *overrides, head=head)
    return caught.value.messages


def same(a: SearchSpace, b: SearchSpace) -> bool:
    return a == b and a.sha256 == b.sha256 and list(a.knobs) == list(b.knobs)
