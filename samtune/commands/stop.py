"""The command that stops a run from another terminal or machine: `samtune stop`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from samtune.commands.options import runs_option

_WAIT_S = 30.0
_LOOK_S = 0.2


@click.command()
@click.argument("name")
@runs_option
def stop(name: str, runs: Path) -> None:
    """Ask a run to stop, and wait until it has stopped.

    Nothing is lost, and `samtune resume` continues the run. This works from any machine that
    shares the folder of runs.
    """
    from samtune.record.folder import found, is_locked
    from samtune.sweep.stop import ask_to_stop, withdraw

    folder = found(runs, name)
    if not is_locked(folder):
        click.echo(_told(runs, name, "is not running"))
        return
    # The record itself is left alone: another machine may be writing it.
    ask_to_stop(folder)
    click.echo(f"asked {name} to stop", err=True)
    deadline = time.monotonic() + _WAIT_S
    while is_locked(folder):
        if time.monotonic() > deadline:
            click.echo(
                f"{name} has not stopped after {_WAIT_S:g} s; it may still do so, and killing "
                "its process costs no more than the epochs under way",
                err=True,
            )
            sys.exit(1)
        time.sleep(_LOOK_S)
    withdraw(folder)
    click.echo(_told(runs, name, "has stopped"))


def _told(runs: Path, name: str, how: str) -> str:
    """How a run stands that nobody writes, and what to type next."""
    from samtune.record.record import Record
    from samtune.views.status import status_of

    with Record.open(runs, name, read_only=True) as record:
        status = status_of(record)
    if not status["finished"]:
        return f"{name} {how}; `samtune resume {name}` goes on with it"
    confirmed = any(study["repeats"].get("completed") for study in status["studies"])
    look = "leaderboard" if confirmed else "status"
    return f"{name} has finished; `samtune {look} {name}` shows what it found"
