"""The commands that compare runs and write their tables: `samtune leaderboard` and `export`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from analysis.leaderboard import save
from analysis.verdicts import compare
from samtune.api.tables import write_tables
from samtune.commands.board import print_board
from samtune.commands.options import json_option, runs_option
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.search.journal import write_journal


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@runs_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "md", "latex", "csv", "json"]),
    default="table",
    show_default=True,
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the leaderboard of these runs as Parquet.",
)
@click.option(
    "--baseline",
    default="sgd",
    show_default=True,
    help="Variant or space that the verdicts compare each row with.",
)
@json_option
def leaderboard(
    names: tuple[str, ...],
    runs: Path,
    form: str,
    output: Path | None,
    baseline: str,
    as_json: bool,
) -> None:
    """Compare the confirmed winners of one or several runs."""
    folders = []
    for name in dict.fromkeys(names):
        with Record.open(runs, name, read_only=True) as record:
            write_tables(record)
            folders.append(record.folder)
    board, pairs = compare(folders, baseline)
    if output is not None:
        if not output.absolute().parent.is_dir():
            raise RunError(f"{output.absolute().parent} is no folder; make it first", exit_code=5)
        save(board, output, folders)
    print_board(board, pairs, "json" if as_json else form)


@click.command("export")
@click.argument("name")
@runs_option
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the tables, which is created; without it, the run's own folder.",
)
@click.option(
    "--optuna",
    "journal",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write an Optuna journal: optuna-dashboard FILE",
)
@json_option
def export_tables(
    name: str, runs: Path, output: Path | None, journal: Path | None, as_json: bool
) -> None:
    """Write the tables of a run again from its record.

    With --optuna, also write one Optuna study per space.
    """
    with Record.open(runs, name, read_only=True) as record:
        folder = record.folder if output is None else output
        try:
            folder.mkdir(parents=True, exist_ok=True)
            written, _ = write_tables(record, folder)
            if journal is not None:
                write_journal(record, journal)
                written.append(journal)
        except OSError as error:
            raise RunError(
                f"cannot write {error.filename or folder}: {error.strerror}; "
                "choose another place with --output or --optuna",
                exit_code=5,
            ) from None
    if as_json:
        click.echo(json.dumps({"schema": "export/1", "files": [str(path) for path in written]}))
    else:
        for path in written:
            click.echo(path)
