"""The commands. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from samtune import __version__

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from samtune.record import Record
    from samtune.space import SearchSpace

EXIT_CODES = """
Exit codes: 0 done; 1 failed; 2 wrong usage or space file; 3 done, but some trials failed;
4 run name in use; 5 environment (folder, data, Ray); 75 stopped, nothing lost; 130 stopped twice.
"""

_runs = click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    envvar="SAMTUNE_RUNS",
    show_default=True,
    help="The folder that holds one folder a run.",
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_quiet = click.option("--quiet", "-q", is_flag=True, help="No progress.")
_set = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="WORD=VALUE",
    help="Changes a value of the space: lr.max=0.3, task.label_noise=0, rho=0.05. Repeatable.",
)
_address = click.option("--address", help="A running Ray cluster to join; else one is started.")
_top = click.option("--top", type=click.IntRange(1), help="How many configurations to confirm.")
_seeds = click.option("--seeds", type=click.IntRange(1), help="How many fresh seeds each.")


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="samtune")
def cli() -> None:
    """Which sharpness-aware optimizer, with which settings, for my problem and my budget?"""


@cli.command()
@click.argument("spaces", nargs=-1, required=True, metavar="SPACE...")
@_set
@click.option("--name", help="Name of the run; else the spaces' names and a count.")
@_runs
@click.option(
    "--confirm/--no-confirm",
    "confirmed",
    default=True,
    show_default=True,
    help="Re-run the winner of each space on fresh seeds and open test.",
)
@_top
@_seeds
@click.option("--dry-run", is_flag=True, help="Show what would run, and run nothing.")
@_address
@_quiet
@_json
def run(
    spaces: tuple[str, ...],
    overrides: tuple[str, ...],
    name: str | None,
    runs: Path,
    confirmed: bool,
    top: int | None,
    seeds: int | None,
    dry_run: bool,
    address: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Sweeps one or several spaces and prints the leaderboard.

    SPACE is a file, or the name of a shipped space: `samtune run spaces/asam.yaml`,
    `samtune run sgd sam asam`.
    """
    from samtune.record import Record, refuse_taken

    if name is not None:
        refuse_taken(runs, name)
    loaded = _load(spaces, overrides)
    if dry_run:
        from samtune.plan import plan, plan_text

        planned = [plan(space) for space in loaded]
        text = "\n\n".join(plan_text(space) for space in planned)
        click.echo(json.dumps({"schema": "plan/1", "spaces": planned}) if as_json else text)
        return
    from samtune.search import Proposals
    from samtune.sweep import searched

    record = Record.create(
        runs,
        name,
        [
            {
                "name": space.name,
                "variant": space.variant,
                "base": space.base,
                "space": space.text,
                "sha256": space.sha256,
                "settings": json.dumps(
                    {
                        "search_alg": space.search.method,
                        "scheduler": f"asha {space.asha.grace:g} x {space.asha.factor:g}",
                        "mode": space.search.mode,
                        "trials": Proposals(space).total,
                        "searched": sorted(searched(space)),
                    }
                ),
            }
            for space in loaded
        ],
    )
    with record, record.lock(), record.removed_if_empty():
        stages = ["search", "confirm"] if confirmed else ["search"]
        code = _stages(record, loaded, stages, top, seeds, address, quiet)
        _finish(record, code, as_json)


@cli.command()
@click.argument("name")
@_top
@_seeds
@_runs
@_address
@_quiet
@_json
def confirm(
    name: str,
    top: int | None,
    seeds: int | None,
    runs: Path,
    address: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Re-runs a run's best configurations on fresh seeds; opens test once a repeat.

    Repeats that the run already has are kept, so `--seeds 10` after 5 adds 5.
    """
    from samtune.record import Record
    from samtune.space import SearchSpace

    with Record.open(runs, name) as record, record.lock():
        spaces = [
            SearchSpace.from_text(study.space, study.name, f"{name}/{study.name}")
            for study in record.studies()
        ]
        code = _stages(record, spaces, ["confirm"], top, seeds, address, quiet)
        _finish(record, code, as_json)


@cli.command()
@click.argument("name", required=False)
@_runs
@_json
def status(name: str | None, runs: Path, as_json: bool) -> None:
    """How far a run is; without NAME, all runs."""
    from samtune.record import Record
    from samtune.status import status_of, status_text

    names = [name] if name else sorted(path.parent.name for path in runs.glob("*/sweep.db"))
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


@cli.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@_runs
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
@_json
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
    _print_board(board, "json" if as_json else form)


@cli.group()
def spaces() -> None:
    """Space files: what is shipped, what one resolves to, whether one is right."""


@spaces.command("list")
@_json
def list_spaces(as_json: bool) -> None:
    """The shipped spaces."""
    from samtune.space import shipped

    paths = shipped()
    if as_json:
        click.echo(
            json.dumps({"schema": "spaces/1", "spaces": {k: str(v) for k, v in paths.items()}})
        )
        return
    for name, path in paths.items():
        first = path.read_text().splitlines()[0].lstrip("# ")
        click.echo(f"{name:16}{first}")


@spaces.command("show")
@click.argument("space")
@_set
@click.option("--origin", is_flag=True, help="Where each value comes from.")
@_json
def show_space(space: str, overrides: tuple[str, ...], origin: bool, as_json: bool) -> None:
    """What a space resolves to, every default filled in."""
    (loaded,) = _load([space], overrides)
    if as_json:
        from samtune.plan import plan

        click.echo(json.dumps({"schema": "space/1", **plan(loaded)}))
    elif origin:
        width = max(map(len, loaded.origin))
        for path, where in loaded.origin.items():
            click.echo(f"{path:{width}}  {where}")
    else:
        click.echo(loaded.text, nl=False)


@spaces.command("check")
@click.argument("files", nargs=-1, required=True, metavar="SPACE...")
@_set
def check_spaces(files: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Tells every mistake in space files; exit code 2 if there is one."""
    for space in _load(files, overrides):
        click.echo(f"{space.path}: right; {space.name}, SHA-256 {space.sha256[:16]}")


@spaces.command("schema")
def print_schema() -> None:
    """The JSON Schema of space files, for editors."""
    from samtune.space import space_schema

    click.echo(json.dumps(space_schema(), indent=2))


def _load(references: Sequence[str], overrides: Sequence[str]) -> list[SearchSpace]:
    """All spaces, or every mistake in all of them at once."""
    from samtune.space import SearchSpace, SpaceError

    loaded, messages = [], []
    for reference in references:
        try:
            space = SearchSpace.load(reference, overrides)
        except SpaceError as error:
            where = f"{reference}: " if len(references) > 1 else ""
            messages += [f"{where}{message}" for message in error.messages]
            continue
        if space.from_shipped:
            click.echo(f"using the shipped space {space.path}", err=True)
        for warning in space.warnings:
            click.echo(f"warning: {warning}", err=True)
        loaded.append(space)
    names = [space.name for space in loaded]
    messages += [
        f"two spaces are called {name!r}; rename one of the files"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    agreed: list[tuple[str, set[str]]] = [
        ("budget.kind", {space.budget.kind for space in loaded}),
        ("search.metric", {space.search.metric for space in loaded}),
        ("search.mode", {space.search.mode for space in loaded}),
        ("budget.per_trial", {f"{space.budget.per_trial:g}" for space in loaded}),
        ("confirm.seeds", {str(space.confirm.seeds) for space in loaded}),
    ]
    agreed += [
        (f"task.{word}", {str(space.task.get(word)) for space in loaded})
        for word in sorted({word for space in loaded for word in space.task})
    ]
    messages += [
        f"spaces of one run must agree on {word}, and these say {' and '.join(sorted(found))}; "
        f"set one with --set {word}=..."
        for word, found in agreed
        if len(found) > 1
    ]
    if messages:
        raise SpaceError(messages)
    return loaded


def _stages(
    record: Record,
    spaces: Sequence[SearchSpace],
    stages: Sequence[str],
    top: int | None,
    seeds: int | None,
    address: str | None,
    quiet: bool,
) -> int:
    """Runs the stages and answers with the exit code."""
    from samtune.cluster import cluster
    from samtune.live import view
    from samtune.sweep import Confirm, Search, Stop, run_stage

    console = _console(stderr=True)
    click.echo(f"run {record.name}: {record.folder}", err=True)
    stop = Stop()
    signals = partial(stop.on_signals, partial(_cut_short, record.folder))
    failed = 0
    wanted = [space.resources for space in spaces]
    # Ray puts its own handlers in place of ours when it starts, so they are set once more.
    with signals(), cluster(wanted, address) as on, signals():
        for stage in stages:
            if stop.requested:
                break
            if stage == "search":
                plan: Search | Confirm = Search(record, spaces)
            else:
                plan = Confirm(record, spaces, top, seeds)
                if "search" not in stages and any(record.trials("state = 'cancelled'")):
                    click.echo(
                        "the search was stopped before its end; confirming its best", err=True
                    )
                for name in plan.without_winner:
                    click.echo(f"{name}: no trial was completed, so none is confirmed", err=True)
                    failed += 1
            with view(console, quiet=quiet) as shown:
                progress = run_stage(plan, record, on, shown, stop)
            failed += progress.states.get("error", 0)
    if stop.requested and not stop.gave_up:
        return 75
    if stop.gave_up or not any(record.trials("state = 'completed'")):
        return 1
    return 3 if failed else 0


def _cut_short(folder: Path) -> None:
    """Ends the process when Ray does not let go of it: the record is whole before it does."""
    from samtune.record import Record

    with Record.open(folder.parent, folder.name) as record:
        for trial in record.trials("state = 'running'"):
            record.end_trial(trial.trial, "cancelled", "stopped on request")
        record.add_event("stopped", "Ray did not end its trials in time")
    click.echo(f"stopped; all of it is on record: samtune status {folder.name}", err=True)
    os._exit(75)


def _finish(record: Record, code: int, as_json: bool) -> None:
    """Exports, prints the leaderboard, tells where the files lie, and exits."""
    from analysis.leaderboard import leaderboard as compare
    from analysis.leaderboard import save
    from samtune.export import export

    export(record)
    board = compare([record.folder])
    save(board, record.folder / "leaderboard.parquet")
    _print_board(board, "json" if as_json else "table")
    if code in {1, 3}:
        for reason in list(dict.fromkeys(t.reason for t in record.trials("state = 'error'")))[:3]:
            click.echo(f"a trial failed: {reason}", err=True)
    if code == 75:
        click.echo(f"stopped; all of it is on record: samtune status {record.name}", err=True)
    click.echo(f"files: {record.folder}", err=True)
    sys.exit(code)


def _print_board(board: pd.DataFrame, form: str) -> None:
    from analysis import leaderboard as lb

    match form:
        case "json":
            click.echo(json.dumps({"schema": "leaderboard/1", "rows": lb.records(board)}))
        case "csv":
            click.echo(lb.csv(board), nl=False)
        case "md":
            click.echo(lb.markdown(board))
        case _:
            for question, rows in lb.questions(board):
                _print_question(question, rows)


def _print_question(question: str, board: pd.DataFrame) -> None:
    """One table, without the last columns where the terminal is narrow, and its winners."""
    from rich.table import Table

    from analysis import leaderboard as lb

    console, rows = _console(), lb.cells(board)
    widths = [max(map(len, column)) for column in zip(lb.HEADINGS, *rows, strict=True)]
    fitting = [k for k in range(4, len(widths) + 1) if sum(widths[:k]) + 2 * k <= console.width]
    shown = max(fitting, default=4)
    table = Table(box=None, pad_edge=False)
    for heading in lb.HEADINGS[:shown]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row[:shown])
    click.echo(question)
    console.print(table)
    for name, sha, knobs in zip(
        board["space"], board["config_sha"], lb.winners(board), strict=True
    ):
        won = f"{name} won with {knobs or 'its only configuration'}"
        click.echo(won if sha else f"{name}: no trial was completed")


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # A log or a pipe has no width to fit into.
        console = Console(stderr=stderr, highlight=False, width=240)
    return console


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: every mistake of a user ends in sentences and an exit code."""
    try:
        sys.exit(cli(arguments, prog_name="samtune", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("samtune: stopped; no trial was running", err=True)
        sys.exit(75)
    except Exception as error:
        if os.environ.get("SAMTUNE_DEBUG"):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        sentences = getattr(error, "messages", None) or [first]
        for sentence in sentences:
            click.echo(f"samtune: {sentence}", err=True)
        code = {"SpaceError": 2, "TableError": 1}.get(type(error).__name__)
        if code is None:
            code = getattr(error, "exit_code", None)
        if code is None:
            click.echo(
                "samtune: this is a fault of samtune's; SAMTUNE_DEBUG=1 shows where", err=True
            )
        sys.exit(1 if code is None else code)
