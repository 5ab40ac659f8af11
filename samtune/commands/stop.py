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
    """Asks a run to stop, and waits until it has: nothing is lost, and `resume` goes on.

    Works from any machine that shares the folder of runs.
    """
    from samtune.record import Record
    from samtune.stop import ask_to_stop, withdraw

    with Record.open(runs, name) as record:
        if not record.is_locked():
            click.echo(f"{name} is not running; `samtune resume {name}` goes on with it")
            return
        ask_to_stop(record.folder)
        click.echo(f"asked {name} to stop", err=True)
        deadline = time.monotonic() + _WAIT_S
        while record.is_locked():
            if time.monotonic() > deadline:
                click.echo(
                    f"{name} has not stopped after {_WAIT_S:g} s; it may still do so, and killing "
                    "its process costs no more than the epochs under way",
                    err=True,
                )
                sys.exit(1)
            time.sleep(_LOOK_S)
        withdraw(record.folder)
        click.echo(f"{name} has stopped; `samtune resume {name}` goes on with it")
