"""The command that shows what a trial printed: `samtune logs`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from samtune.commands.options import runs_option
from samtune.messages import printable
from samtune.record.logs import Tail
from samtune.record.record import Record
from samtune.views.trials import trial_of

_LOOK_S = 0.5


@click.command()
@click.argument("name", metavar="RUN")
@click.argument("trial")
@click.option("--follow", "-f", is_flag=True, help="Continue until the trial or the run ends.")
@runs_option
def logs(name: str, trial: str, follow: bool, runs: Path) -> None:
    """Show what a trial printed, and the tracebacks of its failures.

    TRIAL is as for `samtune show`: a number, sam:5 in a run of several spaces, r2 for repeat 2.
    """
    with Record.open(runs, name, read_only=True) as record:
        tail = Tail(Path(trial_of(record, trial)["log"]))
        try:
            while follow and trial_of(record, trial)["ended_at"] is None and record.is_locked():
                _print(tail.lines())
                time.sleep(_LOOK_S)
        except KeyboardInterrupt:
            # The trial goes on.
            return
        _print(tail.lines(to_end=True))


def _print(lines: list[str]) -> None:
    for line in lines:
        click.echo(printable(line))
