"""Growth of an existing run: more spaces, and more trials in each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from samtune.api.spaces import Reference, as_texts, disagreements, resolved
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.space.errors import SpaceError
from samtune.space.files import find
from samtune.space.search_space import SearchSpace

_TRIALS = "budget.trials"


def run_named(word: str, runs: Path) -> Path | None:
    """Return the folder of the run that a word names, by its name or its folder; None for none."""
    folder = runs / word if Path(word).name == word else Path(word)
    return folder if (folder / "sweep.db").is_file() else None


def is_space(word: str) -> bool:
    """Return whether a word names a space file or a shipped space."""
    try:
        find(word)
    except SpaceError:
        return False
    return True


def grown(
    record: Record,
    spaces: Sequence[SearchSpace],
    more: Sequence[Reference],
    overrides: Mapping[str, Any] | Sequence[str],
    tell: Callable[[str], None],
) -> list[SearchSpace]:
    """Return the spaces of a run with more trials, and with other spaces after them.

    Args:
        record: The run's record.
        spaces: The run's spaces.
        more: Spaces to add. Their task, budget, search, rungs and resources become those of the
            run's first space. One that the run has already is not added again.
        overrides: The new `budget.trials`, as `samtune.run` takes it.
        tell: Called with each warning.

    Raises:
        RunError: The run cannot grow so (exit code 2).
        SpaceError: Something is wrong in a space to add, or it cannot share the run.
    """
    texts = as_texts(overrides)
    _refuse_others(record, texts)
    longer = [
        SearchSpace.from_text(
            space.text,
            space.name,
            f"{record.name}/{space.name}",
            # The row of the defaults is not searched.
            [] if space.member.study and space.budget.trials == 1 else texts,
        )
        for space in spaces
    ]
    for before, after in zip(spaces, longer, strict=True):
        for_all = after.asha.mode != "stop" or after.asha.rescue
        if before.sha256 != after.sha256 and for_all:
            word = "rescue" if after.asha.rescue else f"mode {after.asha.mode}"
            raise RunError(
                f"{before.name} has asha.{word}, whose rungs are made for "
                f"{before.budget.trials} trials, so {record.name} cannot gain trials; start "
                f"another run with --set {_TRIALS}={after.budget.trials}",
                exit_code=2,
            )
    known = {space.sha256 for space in longer}
    found = resolved(more, on=longer[0], tell=tell)
    together = [*longer, *(space for space in found if space.sha256 not in known)]
    if messages := disagreements(together):
        raise SpaceError(messages)
    return together


def _refuse_others(record: Record, texts: Sequence[str]) -> None:
    """Raise RunError (exit code 2) for a change of anything but the number of trials."""
    for text in texts:
        path = text.partition("=")[0].strip()
        if path != _TRIALS:
            raise RunError(
                f"{record.name} is a run that exists, and only {_TRIALS} can change in it, "
                f"not {path}; start another run with --set {text}",
                exit_code=2,
            )


def refuse_fewer(record: Record, spaces: Sequence[SearchSpace], totals: Sequence[int]) -> None:
    """Raise RunError (exit code 2) if a space has tried more than its new number of trials."""
    for study, (space, total) in enumerate(zip(spaces, totals, strict=True)):
        tried = sum(1 for _ in record.trials(study=study, stage="search"))
        if tried > total:
            raise RunError(
                f"{space.name} of {record.name} has tried {tried} configurations, and "
                f"{_TRIALS}={space.budget.trials} allows {total}; choose a larger number",
                exit_code=2,
            )


def change(record: Record, studies: Sequence[Mapping[str, str]]) -> str:
    """Return in words what a run gains by these rows of its studies; empty if nothing."""
    known = {study.name: study for study in record.studies()}
    gained = []
    for row in studies:
        before = known.get(row["name"])
        trials = json.loads(row["settings"])["trials"]
        if before is None:
            gained.append(f"{row['name']} with {trials} trials")
        elif before.sha256 != row["sha256"]:
            gained.append(f"{row['name']} from {before.settings['trials']} to {trials} trials")
    return ", ".join(gained)
