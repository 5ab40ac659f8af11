"""The stages of a command that trains: run in their order, and told of at their end."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from samtune.commands.board import console_for, print_board, write_tables
from samtune.commands.options import Launch

if TYPE_CHECKING:
    from samtune.record.record import Record
    from samtune.space.search_space import SearchSpace
    from samtune.sweep.stages import Confirm
    from samtune.sweep.stop import Stop


def run_stages(
    record: Record,
    spaces: Sequence[SearchSpace],
    stages: Sequence[str],
    top: int | None,
    seeds: int | None,
    launch: Launch,
    own_code: Sequence[str],
) -> int:
    """Run the stages and return the exit code.

    `own_code` are the references of the user's code that other nodes may have to be sent.
    """
    from samtune.cluster.shipping import modules
    from samtune.cluster.start import cluster
    from samtune.sweep import observers as integrations
    from samtune.sweep.driver import run_stage
    from samtune.sweep.live import view
    from samtune.sweep.stages import Confirm, Search
    from samtune.sweep.stop import Stop, withdraw

    console = console_for(stderr=True)
    click.echo(f"run {record.name}: {record.folder}", err=True)
    withdraw(record.folder)
    stop = Stop()
    signals = partial(stop.on_signals, partial(_cut_short, record.folder, stop))
    failed = 0
    wanted = [space.resources for space in spaces]
    ship = modules(own_code) if launch.ship_code else []
    warn = partial(click.echo, err=True)
    # Ray puts its own handlers in place of ours when it starts, so they are set once more.
    with (
        integrations.observers(record, launch.logs, launch.hook, warn) as observers,
        signals(),
        cluster(wanted, launch.address, storage=launch.storage, ship=ship) as on,
        signals(),
    ):
        for stage in stages:
            if stop.requested:
                break
            if stage == "search":
                plan: Search | Confirm = Search(record, spaces)
            else:
                plan = Confirm(record, spaces, top, seeds)
                failed += _tell_winners(record, plan, searched="search" in stages)
            with view(console, quiet=launch.quiet) as shown:
                progress = run_stage(plan, record, on, shown, stop, observers)
            failed += progress.states.get("error", 0)
    if stop.requested:
        return stopped(record, stop)
    if not any(record.trials(states={"completed"})):
        return 1
    return 3 if failed else 0


def _tell_winners(record: Record, plan: Confirm, *, searched: bool) -> int:
    """Says what a confirmation cannot confirm; returns how many spaces have no winner."""
    if not searched and any(record.trials(stage="search", states={"cancelled"})):
        click.echo("the search was stopped before its end; confirming its best", err=True)
    for name in plan.without_winner:
        click.echo(f"{name}: no trial was completed, so none is confirmed", err=True)
    return len(plan.without_winner)


def stopped(record: Record, stop: Stop) -> int:
    """The exit code of a stop. Raises RunError (exit code 5) for one that the disk asked for."""
    if stop.why == "disk full":
        raise _full(record, stop.detail)
    return 1 if stop.why == "gave up" else 75


def _full(record: Record, detail: str) -> Exception:
    from samtune.record.folder import RunError

    return RunError(
        f"stopped, because {record.folder} has no room left ({detail}); all of it is on record: "
        f"make room, and `samtune resume {record.name}` goes on",
        exit_code=5,
    )


@contextmanager
def room(record: Record) -> Iterator[None]:
    """Tells of a full disk as such, wherever it was met: in a stage, or in a table."""
    from samtune.durable import disk_refuses

    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if not disk_refuses(error):
            raise
        raise _full(record, str(error)) from error


def _cut_short(folder: Path, stop: Stop) -> None:
    """Ends the process when Ray does not let go of it: the record is whole before it does."""
    from samtune.record.record import Record

    with Record.open(folder.parent, folder.name) as record:
        for trial in record.running():
            record.end_trial(trial.trial, "cancelled", "stopped on request", cause="stopped")
        record.add_event("stopped", "Ray did not end its trials in time")
    click.echo(_on_record(folder.name), err=True)
    os._exit({"gave up": 1, "disk full": 5}.get(stop.why or "", 75))


def _on_record(name: str) -> str:
    return f"stopped; all of it is on record: `samtune resume {name}` goes on"


def finish(record: Record, code: int, as_json: bool) -> None:
    """Exports, prints the leaderboard, tells where the files lie, and exits."""
    _, board = write_tables(record)
    print_board(board, "json" if as_json else "table")
    if code in {1, 3}:
        for reason in list(dict.fromkeys(t.reason for t in record.trials(states={"error"})))[:3]:
            click.echo(f"a trial failed: {reason}", err=True)
    if code == 75:
        click.echo(_on_record(record.name), err=True)
    click.echo(f"files: {record.folder}", err=True)
    sys.exit(code)
