"""Functions that start, resume and confirm runs, for Python code and for the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from samtune.api import race
from samtune.api.decisions import decisions
from samtune.api.frozen import (
    check_versions,
    code_of,
    content,
    content_now,
    frozen_spaces,
    study_row,
)
from samtune.api.growth import change, grown, refuse_fewer
from samtune.api.launch import Launch
from samtune.api.readiness import check_data, imported_by, note_by_value
from samtune.api.report import write_report
from samtune.api.seed_plan import Asked, settled
from samtune.api.spaces import Reference
from samtune.api.stages import Ended, enough_room, run_stages
from samtune.api.tables import write_tables
from samtune.record.copies import copied, fetched
from samtune.record.folder import RunError, check_name, taken
from samtune.record.record import Record
from samtune.search.proposals import Proposals
from samtune.space.search_space import SearchSpace
from samtune.sweep import observers
from samtune.sweep.confirm_stage import ConfirmStage
from samtune.sweep.run_stages import MemoryKillError
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.select_stage import SelectStage
from samtune.sweep.stages import StagePlan, has_work
from samtune.sweep.stop import Stop


def start(
    runs: Path, name: str | None, spaces: Sequence[SearchSpace], asked: Asked, launch: Launch
) -> tuple[Path, Ended]:
    """Run spaces, or continue the stopped run of the same name and spaces.

    Args:
        runs: The folder that holds the runs.
        name: Name of the run; without it, the spaces' names and a count.
        spaces: The spaces, resolved.
        asked: Whether and what to confirm.
        launch: Where trials run, and who hears of them.

    Returns:
        The run's folder, and how it ended.

    Raises:
        RunError: The name is taken (exit code 4), or the environment fails (exit code 5).
        SpaceError: Something that a space names cannot be imported.
    """
    observers.check(launch.log, launch.hook)
    if name is not None and is_run(runs, name):
        return _started_again(runs, name, spaces, asked, launch)
    own_code = imported_by(spaces)
    check_data(spaces, launch)
    hashes = code_of(spaces)
    proposals = [Proposals(space) for space in spaces]
    studies = [study_row(space, each.total) for space, each in zip(spaces, proposals, strict=True)]
    with (
        Record.create(
            runs,
            name,
            studies,
            dataclasses.asdict(asked),
            hashes,
            spaces[0].member.study or None,
        ) as record,
        _held(record, launch, new=True) as stop,
    ):
        note_by_value(record, spaces)
        stages = _stages(record, spaces, asked, launch, proposals)
        return record.folder, _run(record, spaces, stages, launch, own_code, stop)


def is_run(runs: Path, name: str) -> bool:
    """Return whether there is a run of this name. Raises RunError (exit code 2) for no name."""
    return (runs / check_name(name) / "sweep.db").is_file()


def _started_again(
    runs: Path, name: str, spaces: Sequence[SearchSpace], asked: Asked, launch: Launch
) -> tuple[Path, Ended]:
    """Continue a run with the command that started it. Refuse its name for other spaces.

    A study that has gained members since the run began adds them to it.
    """
    with Record.open(runs, name) as record:
        known = [content_now(study) for study in record.studies()]
        given = {content(space): space for space in spaces}
        added = [space for content, space in given.items() if content not in known]
        if not given.keys() >= set(known) or any(not space.member.study for space in added):
            raise taken(runs, name)
        with _held(record, launch) as stop:
            check_versions(record, accepted=False)
            imported_by(spaces)
            if asked.confirm:
                settled(record, asked, spaces)
            if added:
                _add_members(record, [given[content] for content in known], added, launch)
            record.set_meta("asked", dataclasses.asdict(asked))
            ended = _go_on(record, launch, stop)
            if ended is None:
                raise taken(runs, name)
            return record.folder, ended


def _add_members(
    record: Record, spaces: Sequence[SearchSpace], added: Sequence[SearchSpace], launch: Launch
) -> None:
    """Add the members that a study has gained to its run."""
    together = [*spaces, *added]
    studies = [study_row(space, Proposals(space).total) for space in together]
    code = code_of(added)
    record.set_meta("versions", code | (record.meta("versions") or {}))
    record.grow(studies, change(record, studies))
    launch.tell(f"{record.name} gains {len(added)} members of its study")


def resume(
    runs: Path,
    name: str,
    launch: Launch,
    *,
    confirm: bool = True,
    accept_version_change: bool = False,
) -> tuple[Path, Ended]:
    """Continue a run that was stopped or killed, from its own frozen spaces.

    Args:
        runs: The folder that holds the runs.
        name: Name of the run; with a storage, it may be there alone.
        launch: Where trials run, and who hears of them.
        confirm: False ends the run with its search, now and in later resumes.
        accept_version_change: Whether to continue although versions or code have changed.

    Returns:
        The run's folder, and how it ended.

    Raises:
        RunError: There is no such run, or it was begun by other versions (exit code 2).
    """
    observers.check(launch.log, launch.hook)
    if launch.storage and not is_run(runs, name):
        fetched(runs, name, launch.storage)
    with Record.open(runs, name) as record, _held(record, launch) as stop:
        check_versions(record, accept_version_change)
        if not confirm:
            unconfirmed = dataclasses.replace(Asked.of(record), confirm=False)
            record.set_meta("asked", dataclasses.asdict(unconfirmed))
        return record.folder, _to_the_end(record, launch, stop)


def grow(
    runs: Path,
    name: str,
    more: Sequence[Reference],
    overrides: Mapping[str, Any] | Sequence[str],
    asked: Asked,
    launch: Launch,
) -> tuple[Path, Ended]:
    """Add spaces to a run, or trials to its spaces, and run what is then left of it.

    Args:
        runs: The folder that holds the runs.
        name: Name of the run.
        more: The spaces to add.
        overrides: The new `budget.trials`.
        asked: Whether and what to confirm. A run begun without confirmation stays without.
        launch: Where trials run, and who hears of them.

    Returns:
        The run's folder, and how it ended.

    Raises:
        RunError: The run cannot grow so (exit code 2).
        SpaceError: Something is wrong in a space to add.
    """
    observers.check(launch.log, launch.hook)
    with Record.open(runs, name) as record, _held(record, launch) as stop:
        check_versions(record, accepted=False)
        frozen = frozen_spaces(record)
        spaces = grown(record, frozen, more, overrides, launch.tell)
        added = spaces[len(frozen) :]
        imported_by(spaces)
        check_data(added, launch)
        totals = [Proposals(space).total for space in spaces]
        refuse_fewer(record, spaces, totals)
        studies = [study_row(space, total) for space, total in zip(spaces, totals, strict=True)]
        code = code_of(added)
        record.set_meta("versions", code | (record.meta("versions") or {}))
        before = Asked.of(record)
        asked = Asked(
            before.confirm and asked.confirm,
            asked.top or before.top,
            asked.seeds or before.seeds,
            before.until_decided,
            before.max_seeds,
        )
        record.set_meta("asked", dataclasses.asdict(asked))
        if gained := change(record, studies):
            record.grow(studies, gained)
            note_by_value(record, added)
            launch.tell(f"{name} grows: {gained}")
        return record.folder, _to_the_end(record, launch, stop)


def confirm(runs: Path, name: str, asked: Asked, launch: Launch) -> tuple[Path, Ended]:
    """Repeat the best configurations of a run on fresh seeds; repeats that exist are kept.

    Args:
        runs: The folder that holds the runs.
        name: Name of the run.
        asked: How many configurations and seeds.
        launch: Where trials run, and who hears of them.

    Returns:
        The run's folder, and how it ended.
    """
    observers.check(launch.log, launch.hook)
    with Record.open(runs, name) as record, _held(record, launch) as stop:
        spaces = frozen_spaces(record)
        own_code = imported_by(spaces)
        check_data(spaces, launch)
        stages: list[Callable[[], StagePlan]] = [
            partial(SelectStage, record, spaces),
            _confirm(record, spaces, asked, launch),
        ]
        record.set_meta("asked", dataclasses.asdict(asked))
        if any(record.trials(stage="search", states={"cancelled"})):
            launch.tell("the search was stopped before its end; confirming its best")
        return record.folder, _run(record, spaces, stages, launch, own_code, stop)


def _confirm(
    record: Record, spaces: Sequence[SearchSpace], asked: Asked, launch: Launch
) -> Callable[[], ConfirmStage]:
    """Put the plan of the seeds on record, and return a function that makes the stage later."""
    plan = settled(record, asked, spaces)
    decided = decisions(record, launch.tell)
    return partial(ConfirmStage, record, spaces, asked.top, plan.looks, plan.added, decided)


@contextmanager
def _held(record: Record, launch: Launch, *, new: bool = False) -> Iterator[Stop]:
    """Hold a run for writing inside the block, and copy it to its storage.

    Yields the request to stop. It listens to signals until the tables and the copy are written.
    """
    stop = Stop()
    with ExitStack() as stack:
        stack.enter_context(stop.on_signals())
        stack.enter_context(record.lock())
        stack.enter_context(record.removed_if_empty() if new else _settings_kept(record))
        stack.enter_context(enough_room(record))
        if launch.time_limit is not None:
            record.set_meta("time_limit", launch.time_limit)
        stack.enter_context(copied(record, launch.storage, new=new))
        yield stop


@contextmanager
def _settings_kept(record: Record) -> Iterator[None]:
    """Say of advice to `--set` something that a run which exists cannot follow it."""
    try:
        yield
    except RunError as error:
        if error.exit_code != 5 or "--set " not in str(error):
            raise
        *others, last = error.messages
        last += f", in a new run: {record.name} keeps its settings"
        raise RunError([*others, last], exit_code=5) from error


def _to_the_end(record: Record, launch: Launch, stop: Stop) -> Ended:
    """Run the rest of a run, and tell the user if nothing is left."""
    ended = _go_on(record, launch, stop)
    if ended is None:
        launch.tell(f"nothing is left to do in {record.name}")
        write_tables(record)
        write_report(record, launch.tell)
        ended = Ended(0)
    return ended


def _go_on(record: Record, launch: Launch, stop: Stop) -> Ended | None:
    """Run the rest of a run, or return None when nothing is left."""
    spaces = frozen_spaces(record)
    own_code = imported_by(spaces)
    asked = Asked.of(record)
    left = _stages(record, spaces, asked, launch)
    while not has_work(plan := left.pop(0)()):
        plan.finish()
        if not left:
            return None
    check_data(spaces, launch)
    record.add_event("resumed", f"{plan.progress.stage} to do")
    return _run(record, spaces, [lambda: plan, *left], launch, own_code, stop)


def _run(
    record: Record,
    spaces: Sequence[SearchSpace],
    stages: Sequence[Callable[[], StagePlan]],
    launch: Launch,
    own_code: Sequence[str],
    stop: Stop,
) -> Ended:
    """Run stages, and run what is left of them again if Ray kills workers to free memory."""
    try:
        return run_stages(record, spaces, stages, launch, own_code, stop)
    except MemoryKillError as error:
        launch.tell(
            f"{error}; they continue from their checkpoints. A new run needs less memory with "
            "fewer trials at a time: --set resources.parallel=1"
        )
        return _to_the_end(record, launch, stop)


def _stages(
    record: Record,
    spaces: Sequence[SearchSpace],
    asked: Asked,
    launch: Launch,
    proposals: Sequence[Proposals] | None = None,
) -> list[Callable[[], StagePlan]]:
    """Return functions that make the stages of a run, each after the end of the one before it.

    A race has a search and a select stage per search of its study. Other runs have one of each.
    """
    stages: list[Callable[[], StagePlan]] = []
    if spaces[0].member.keep:
        for number in sorted({space.member.search for space in spaces}):
            stages += [
                partial(_searched, record, spaces, number),
                partial(SelectStage, record, spaces),
            ]
    else:
        stages.append(partial(SearchStage, record, spaces, proposals))
        stages.append(partial(SelectStage, record, spaces))
    if asked.confirm:
        stages.append(_confirm(record, spaces, asked, launch))
    return stages


def _searched(record: Record, spaces: Sequence[SearchSpace], number: int) -> SearchStage:
    """Return the stage of one search of a race, without the members that were left out."""
    return SearchStage(record, spaces, active=race.active(record, spaces, number))
