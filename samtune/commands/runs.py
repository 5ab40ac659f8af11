"""The commands for the runs of a folder: list, remove and rename them, and write notes."""

from __future__ import annotations

import json
from pathlib import Path

import click

from samtune.commands.options import json_option, named, runs_option
from samtune.commands.tables import print_table
from samtune.record.folder import RunError, found, is_locked
from samtune.record.runs import add_note, remove, rename
from samtune.terminal import say
from samtune.views.runs import HEADINGS, cells, runs_of


@click.command("ls")
@runs_option
@json_option
def list_runs(runs: Path, as_json: bool) -> None:
    """List all runs, the newest first."""
    rows = runs_of(runs)
    if as_json:
        click.echo(json.dumps({"schema": "runs/1", "runs": rows}))
    elif rows:
        print_table(HEADINGS, cells(rows))
    else:
        click.echo(f"no runs in {runs}; `samtune run asam` makes one")


@click.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@click.option("--yes", "-y", is_flag=True, help="Remove without asking.")
@runs_option
def remove_runs(names: tuple[str, ...], yes: bool, runs: Path) -> None:
    """Remove runs with all their files.

    A run that is running is refused; `samtune stop` stops it.
    """
    for name in dict.fromkeys(names):
        if is_locked(found(runs, name)):
            raise RunError(f"run {name!r} is running; `samtune stop {name}` stops it", exit_code=4)
        if yes or click.confirm(f"remove {name} and all its files?", err=True):
            remove(runs, name)
            say(f"removed {name}")


@click.command("mv")
@click.argument("name", metavar="RUN")
@click.argument("new")
@runs_option
def rename_run(name: str, new: str, runs: Path) -> None:
    """Rename a run."""
    folder = rename(runs, name, new)
    # The tables hold the run's name.
    named(folder.parent, new).export()
    say(f"{name} is now {new}")


@click.command("note")
@click.argument("name", metavar="RUN")
@click.argument("text")
@runs_option
def note_run(name: str, text: str, runs: Path) -> None:
    """Add a note to a run, which `samtune ls` shows.

    An empty TEXT removes all notes of the run.
    """
    add_note(runs, name, text)
