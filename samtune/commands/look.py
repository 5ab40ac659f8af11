"""The commands that look at runs; those that show single trials are in `trials`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from samtune.commands.board import print_board
from samtune.commands.options import format_option, json_option, runs_option
from samtune.terminal import console_for

_TICK_S = 2.0


class _Seconds(click.ParamType[float]):
    """The number after `--watch`; a run's name there was meant for NAME."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = float(value)
        except ValueError:
            self.fail(
                f"{value!r} is no number of seconds; the run stands before it: "
                f"samtune status {value} --watch"
            )
        if not 0.1 <= seconds <= 3600:
            self.fail(f"{value} is not between 0.1 and 3600 seconds")
        return seconds


@click.command()
@click.argument("name", required=False)
@runs_option
@click.option(
    "--watch",
    type=_Seconds(),
    is_flag=False,
    flag_value=_TICK_S,
    help=f"Again every so many seconds ({_TICK_S:g} if not said) until the run ends or Ctrl-C.",
)
@json_option
def status(name: str | None, runs: Path, watch: float | None, as_json: bool) -> None:
    """Show the progress of one run, or of all runs."""
    from samtune.record.folder import names as names_of
    from samtune.record.record import Record
    from samtune.views.status import status_of

    names = [name] if name else names_of(runs)
    if watch is not None and names:
        _watch(runs, names, watch, as_json)
        return
    found = []
    for each in names:
        with Record.open(runs, each, read_only=True) as record:
            found.append(status_of(record))
    if as_json:
        click.echo(_json(found))
    elif not found:
        click.echo(f"no runs in {runs}; `samtune run asam` makes one")
    else:
        click.echo(_text(found))


def _watch(runs: Path, names: list[str], every: float, as_json: bool) -> None:
    """Redraws on a terminal; elsewhere prints what has changed, as text or one JSON a line."""
    from rich.live import Live
    from rich.text import Text

    from samtune.views.status import watched

    console, last = console_for(), None
    try:
        if console.is_terminal and not as_json:
            with Live(console=console, auto_refresh=False) as live:
                for found in watched(runs, names, every):
                    live.update(Text(_text(found)), refresh=True)
            return
        for found in watched(runs, names, every):
            news = [{k: v for k, v in status.items() if k != "seconds"} for status in found]
            if news != last:
                last = news
                click.echo(_json(found) if as_json else f"{_text(found)}\n")
    except KeyboardInterrupt:
        # Whoever watched has seen enough; the run goes on.
        return


def _text(found: list[dict[str, Any]]) -> str:
    from samtune.views.status import status_text

    return "\n\n".join(status_text(each) for each in found)


def _json(found: list[dict[str, Any]]) -> str:
    return json.dumps({"schema": "status/1", "runs": found})


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@runs_option
@format_option
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
    from analysis.leaderboard import save
    from analysis.verdicts import compare
    from samtune.api.tables import write_tables
    from samtune.record.folder import RunError
    from samtune.record.record import Record

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
    help="Folder for the tables, made if need be; else the run's own.",
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
    from samtune.api.tables import write_tables
    from samtune.record.folder import RunError
    from samtune.record.record import Record

    with Record.open(runs, name, read_only=True) as record:
        folder = record.folder if output is None else output
        try:
            folder.mkdir(parents=True, exist_ok=True)
            written, _ = write_tables(record, folder)
            if journal is not None:
                from samtune.search.journal import write_journal

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
