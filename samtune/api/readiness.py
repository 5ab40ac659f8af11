"""Checks, before Ray starts, that everything that the trials of a run need is here."""

from __future__ import annotations

from collections.abc import Sequence

from samtune.api.launch import Launch
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.space.by_value import is_by_value
from samtune.space.search_space import SearchSpace, resolve
from samtune.space.trainable import imported


def imported_by(spaces: Sequence[SearchSpace]) -> list[str]:
    """Import everything that the spaces name, and return the references of the user's own code.

    A frozen space was checked when its run began; its code may be gone since.

    Raises:
        SpaceError: Something cannot be imported here, so it cannot be in a worker either.
    """
    found = [imported(space.trainable, space.base, space.task) for space in spaces]
    return [each for references in found for each in references if not is_by_value(each)]


def note_by_value(record: Record, spaces: Sequence[SearchSpace]) -> None:
    """Record which trainables only this process has."""
    for space in spaces:
        if is_by_value(space.trainable):
            record.add_event(
                "by value",
                f"{space.trainable} was sent to this run's workers by value: the run can be "
                "resumed only where it is defined",
            )


def check_data(spaces: Sequence[SearchSpace], launch: Launch) -> None:
    """Let each trainable check its machine and data before Ray starts: one error for all trials.

    A cluster's machines have GPUs and data of their own, so this is done without a cluster only.

    Raises:
        SamtuneError: A trainable reports that no trial can start.
    """
    for space in spaces:
        if launch.address is not None:
            continue
        trainable = resolve(space.trainable)
        lacks = getattr(trainable, "lacks", None)
        if lacks is not None and (problem := lacks(space.task, space.resources.gpus)) is not None:
            raise RunError(f"{space.name}: no trial could begin: {problem}", exit_code=5)
        ready = getattr(trainable, "make_ready", None)
        if ready is None:
            continue
        try:
            ready(space.task)
        except ValueError as error:
            raise RunError(f"{space.name}: no trial could begin: {error}", exit_code=5) from error
