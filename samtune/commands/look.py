"""The commands that look at runs: `samtune status` and `samtune leaderboard`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from samtune.commands.board import print_board
from samtune.commands.options import json_option, runs_option


@click.command()
@click.argument("name", required=False)
@runs_option
@json_option
def status(name: str | None, runs: Path, as_json: bool) -> None:
    """How far a run is; without NAME, all runs."""
    from samtune.record import Record
    from samtune.status import status_of, status_text

    names = [name] if name else sorted(path.parent.name for path in runs.glob("[!.]*/sweep.db"))
    found = []
    for each in names:
        with Record.open(runs, each) as record:
            found.append(status_of(record))
    if as_json:
        click.echo(json.dumps({"schema": "status/1", "runs": found}))
    elif not found:
        click.echo(f"no runs in {runs}; `samtune run asam` makes one")
    else:
        click.echo("\n\n".join(status_text(each) for each in found))


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@runs_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "md", "csv", "json"]),
    default="table",
    show_default=True,
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the leaderboard of these runs as Parquet.",
)
@json_option
def leaderboard(
    names: tuple[str, ...], runs: Path, form: str, output: Path | None, as_json: bool
) -> None:
    """Compares the confirmed winners of one or several runs."""
    from analysis.leaderboard import leaderboard as compare
    from analysis.leaderboard import save
    from samtune.export import export
    from samtune.record import Record, RunError

    folders = []
    for name in dict.fromkeys(names):
        with Record.open(runs, name) as record:
            export(record)
            save(compare([record.folder]), record.folder / "leaderboard.parquet")
            folders.append(record.folder)
    board = compare(folders)
    if output is not None:
        if not output.absolute().parent.is_dir():
            raise RunError(f"{output.absolute().parent} is no folder; make it first", exit_code=5)
        save(board, output)
    print_board(board, "json" if as_json else form)
