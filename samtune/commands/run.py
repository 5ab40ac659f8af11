"""The commands that train: `samtune run` and `samtune confirm`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from samtune.commands.board import console_for, print_board
from samtune.commands.options import (
    address_option,
    json_option,
    quiet_option,
    runs_option,
    seeds_option,
    set_option,
    top_option,
)
from samtune.commands.spaces import load_spaces

if TYPE_CHECKING:
    from samtune.record import Record
    from samtune.space import SearchSpace


@click.command()
@click.argument("spaces", nargs=-1, required=True, metavar="SPACE...")
@set_option
@click.option("--name", help="Name of the run; else the spaces' names and a count.")
@runs_option
@click.option(
    "--confirm/--no-confirm",
    "confirmed",
    default=True,
    show_default=True,
    help="Re-run the winner of each space on fresh seeds and open test.",
)
@top_option
@seeds_option
@click.option("--dry-run", is_flag=True, help="Show what would run, and run nothing.")
@address_option
@quiet_option
@json_option
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
    loaded = load_spaces(spaces, overrides)
    if dry_run:
        from samtune.plan import plan, plan_text

        planned = [plan(space) for space in loaded]
        text = "\n\n".join(plan_text(space) for space in planned)
        click.echo(json.dumps({"schema": "plan/1", "spaces": planned}) if as_json else text)
        return
    from samtune.replay import rule_text
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
                        "scheduler": rule_text(space.asha.model_dump()),
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


@click.command()
@click.argument("name")
@top_option
@seeds_option
@runs_option
@address_option
@quiet_option
@json_option
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

    console = console_for(stderr=True)
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
    print_board(board, "json" if as_json else "table")
    if code in {1, 3}:
        for reason in list(dict.fromkeys(t.reason for t in record.trials("state = 'error'")))[:3]:
            click.echo(f"a trial failed: {reason}", err=True)
    if code == 75:
        click.echo(f"stopped; all of it is on record: samtune status {record.name}", err=True)
    click.echo(f"files: {record.folder}", err=True)
    sys.exit(code)
