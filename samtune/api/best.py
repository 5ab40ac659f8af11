"""The winning configuration of a space, as Python code gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from samtune.record.reader import Reader
from samtune.views.best import python, space_file, winner_of


@dataclass(frozen=True)
class Best:
    """The winning configuration of a space.

    Attributes:
        run: Name of the run.
        space: Name of the space.
        trainable: Reference of the trainable.
        trial: The trial's number within the space.
        value: Its metric at its full budget, as the search saw it.
        repeats: How many repeats on fresh seeds have completed.
        confirmed: The mean of the metric over these repeats; None without repeats.
        knobs: The value of each knob.
        space_file: A space file that trains this configuration alone.
        python: A complete script that trains this configuration.
    """

    run: str
    space: str
    trainable: str
    trial: str
    value: float
    repeats: int
    confirmed: float | None
    knobs: Mapping[str, Any]
    space_file: str
    python: str


def best_of(record: Reader, space: str | None) -> Best:
    """Return the winning configuration of a space of this name, or of all spaces.

    Raises:
        RunError: There is no such space (exit code 2), or no trial was completed.
    """
    winner = winner_of(record, space)
    return Best(
        run=record.name,
        space=winner.study.name,
        trainable=winner.trial.config.trainable,
        trial=str(winner.trial.number),
        value=winner.value,
        repeats=winner.repeats,
        confirmed=winner.confirmed,
        knobs=dict(winner.trial.config.knobs),
        space_file=space_file(winner),
        python=python(winner),
    )
