"""The stages of a run, one after another, and the clean end of an interrupted run."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from samtune.api.launch import Launch
from samtune.api.report import write_report
from samtune.api.seed_plan import Asked, plan_on_record
from samtune.api.tables import write_tables
from samtune.cluster.process_group import in_another_group
from samtune.cluster.shipping import modules
from samtune.cluster.silence import silent_ray
from samtune.cluster.start import cluster
from samtune.durable import disk_refuses
from samtune.record.copies import copy_last
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace
from samtune.sweep.confirm_stage import ConfirmStage
from samtune.sweep.live import view
from samtune.sweep.observers import observers
from samtune.sweep.run_stages import run_stages as run_in_ray
from samtune.sweep.stages import StagePlan
from samtune.sweep.stop import Stop, withdraw
from samtune.terminal import console_for


@dataclass(frozen=True)
class Ended:
    """The way in which the stages ended.

    Attributes:
        exit_code: As of a command: 0, 1, 3 or 75.
        signal: Number of the signal that stopped them; None if there was none.
    """

    exit_code: int
    signal: int | None = None


def run_stages(
    record: Record,
    spaces: Sequence[SearchSpace],
    stages: Iterable[Callable[[], StagePlan]],
    launch: Launch,
    own_code: Sequence[str],
    stop: Stop,
) -> Ended:
    """Run stages to their ends or to a stop, and write the tables.

    Args:
        record: The run's record, locked by the caller.
        spaces: The run's spaces.
        stages: Functions that make each stage, called when the one before it has ended.
        launch: Settings for starting the trials and for reporting on them.
        own_code: References of the user's code, which other nodes may need.
        stop: The request to stop, which listens to signals.

    Raises:
        RunError: Ray failed, no worker could start, or the disk is full (exit code 5).
    """
    plan = plan_on_record(record) if Asked.of(record).confirm else None
    confirmed = "" if plan is None else f", confirmed on {plan.words}"
    launch.tell(f"run {record.name}: {record.folder}{confirmed}")
    withdraw(record.folder)
    without_winner: list[str] = []
    wanted = [space.resources for space in spaces]
    ship = modules(own_code) if launch.ship_code else []
    with (
        observers(record, launch.log, launch.hook, launch.tell) as told,
        stop.deadline(partial(_cut_short, record.folder, stop, launch)),
        ExitStack() as stack,
    ):
        stack.enter_context(silent_ray())
        with in_another_group():
            on = stack.enter_context(
                cluster(wanted, launch.address, storage=launch.storage, ship=ship)
            )
        # Ray has replaced our signal handlers at its start.
        stop.listen()
        shown = stack.enter_context(view(console_for(stderr=True), quiet=not launch.progress))

        def opened() -> Iterator[StagePlan]:
            for make in stages:
                plan = make()
                if isinstance(plan, ConfirmStage):
                    without_winner.extend(plan.without_winner)
                    studies = {study.name: study for study in record.studies()}
                    for name in plan.without_winner:
                        launch.tell(f"{name}: {studies[name].no_winner}, so none is confirmed")
                yield plan

        progresses = run_in_ray(opened(), record, on, shown, stop, told)
    for progress in progresses:
        for study, why in progress.ends.items():
            launch.tell(f"{progress.studies[study]}: the search ended early  {why}")
    if stop.requested:
        code = stopped(record, stop)
    elif not any(record.trials(states={"completed"})):
        code = 1
    else:
        failed = sum(progress.states.get("error", 0) for progress in progresses)
        code = 3 if failed or without_winner else 0
    write_tables(record)
    write_report(record, launch.tell)
    return Ended(code, stop.signal)


def stopped(record: Record, stop: Stop) -> int:
    """Return the exit code of stages that were stopped.

    Raises:
        RunError: The disk is full, or no worker could start (exit code 5).
    """
    if stop.why == "disk full":
        raise _full(record, stop.detail)
    if stop.why == "no workers":
        raise RunError(
            f"stopped, because no worker could start: {stop.detail}; once that is solved, "
            f"`samtune resume {record.name}` continues",
            exit_code=5,
        )
    return 1 if stop.why == "gave up" else 75


@contextmanager
def enough_room(record: Record) -> Iterator[None]:
    """Raise RunError (exit code 5) if the disk becomes full anywhere in the block."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if not disk_refuses(error):
            raise
        raise _full(record, str(error)) from error


def _full(record: Record, detail: str) -> RunError:
    return RunError(
        f"stopped, because {record.folder} has no room left ({detail}); what it did "
        f"before is on record: make room, and `samtune resume {record.name}` continues",
        exit_code=5,
    )


def _cut_short(folder: Path, stop: Stop, launch: Launch) -> None:
    """Leave the run whole, and end the process, because Ray does not end the trials."""
    with Record.open(folder.parent, folder.name) as record:
        for trial in record.running():
            record.end_trial(trial.trial, "cancelled", "stopped on request", cause="stopped")
        record.add_event("stopped", "Ray did not end its trials in time")
        write_tables(record)
        if launch.storage is not None:
            copy_last(record, launch.storage)
    code = {"gave up": 1, "disk full": 5, "no workers": 5}.get(stop.why or "", 75)
    launch.cut_short(folder, code)
    sys.stdout.flush()
    os._exit(code)
