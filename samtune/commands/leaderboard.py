"""The commands that compare runs and write their tables: `samtune leaderboard` and `export`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from analysis.leaderboard import leaderboard as by_search
from analysis.leaderboard import save
from analysis.selection import best_of_variants, order, where
from analysis.sources import ends, merged, rules
from analysis.verdicts import compare
from samtune.api.tables import write_tables
from samtune.commands.board import print_board, print_budgets, print_fronts
from samtune.commands.options import json_option, runs_option
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.search.journal import write_journal


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@runs_option
@click.option(
    "--by",
    type=click.Choice(["task", "variant", "budget", "search"]),
    default="task",
    show_default=True,
    help="task: a table for each task and budget; variant: of each variant the row best on "
    "validation; budget: budgets side by side; search: a row for each search.",
)
@click.option(
    "--where", "condition", metavar="CONDITION", help="Rows to show: 'variant in (sam, asam)'."
)
@click.option("--sort", metavar="COLUMN", help="Order of the rows; -COLUMN has the largest first.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "md", "latex", "csv", "json", "parquet"]),
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
    help="Variant or space that the verdicts compare each row with; without it, that of the "
    "study, or sgd.",
)
@json_option
def leaderboard(
    names: tuple[str, ...],
    runs: Path,
    by: str,
    condition: str | None,
    sort: str | None,
    form: str,
    output: Path | None,
    baseline: str | None,
    as_json: bool,
) -> None:
    """Compare the confirmed winners of one or several runs.

    RUN is the name of a run, its folder, or a folder with its tables from another machine. What is
    shown by --where or --by changes no verdict and no rank: these are of the whole board.
    """
    if form == "parquet" and output is None:
        raise RunError("--format parquet needs a file: -o leaderboard.parquet", exit_code=2)
    folders, notes = merged([_tables(runs, name) for name in dict.fromkeys(names)])
    if by == "search":
        board, pairs = by_search(folders, by_search=True), None
    else:
        board, pairs = compare(folders, baseline)
    notes += [*rules(board), *ends(folders)]
    shown = where(board, condition) if condition else board
    shown = best_of_variants(shown) if by == "variant" else shown
    shown = order(shown, sort) if sort else shown
    if len(shown) < len(board):
        notes.append(f"{len(shown)} of {len(board)} rows are shown.")
    if output is not None:
        if not output.absolute().parent.is_dir():
            raise RunError(f"{output.absolute().parent} is no folder; make it first", exit_code=5)
        save(shown, output, folders)
    if form == "parquet":
        return
    form = "json" if as_json else form
    for note in notes:
        click.echo(note, err=form in {"json", "csv", "latex"})
    if by == "budget" and form in {"table", "md", "latex"}:
        print_budgets(shown, form)
    else:
        print_board(shown, pairs, form, folders)
    if form in {"table", "md", "latex"}:
        print_fronts(folders, form)


def _tables(runs: Path, name: str) -> Path:
    """Return the folder of a run's tables; those of a run on this machine are written again."""
    folder = Path(name)
    if folder.is_dir() and ("/" in name or not (runs / name).is_dir()):
        if not (folder / "sweep.db").is_file():
            return folder.absolute()
        runs, name = folder.absolute().parent, folder.absolute().name
    with Record.open(runs, name, read_only=True) as record:
        write_tables(record)
        return record.folder


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
