"""The command that stops a run from another terminal or machine: `samtune stop`."""

from __future__ import annotations

from pathlib import Path

import click

from samtune.api.run import Run
from samtune.commands.options import runs_option
from samtune.record.folder import found
from samtune.terminal import say

_WAIT_S = 30.0


@click.command()
@click.argument("name")
@runs_option
def stop(name: str, runs: Path) -> int:
    """Ask a run to stop, and wait until it has stopped.

    Nothing is lost, and `samtune resume` continues the run. This works from any machine that
    shares the folder of runs.
    """
    run = Run(found(runs, name))
    if not run.is_running():
        click.echo(_next(run, "is not running"))
        return 0
    say(f"asked {name} to stop")
    if run.stop(timeout=_WAIT_S):
        click.echo(_next(run, "has stopped"))
        return 0
    say(
        f"{name} has not stopped after {_WAIT_S:g} s; it may still do so, and killing its process "
        "costs no more than the epochs in progress"
    )
    return 1


def _next(run: Run, state: str) -> str:
    """Return the state of a run that nobody writes, and what to type next."""
    status = run.status()
    if not status["finished"]:
        return f"{run.name} {state}; `samtune resume {run.name}` goes on with it"
    confirmed = any(study["repeats"].get("completed") for study in status["studies"])
    look = "leaderboard" if confirmed else "status"
    return f"{run.name} has finished; `samtune {look} {run.name}` shows what it found"
