"""The commands that train: `samtune run`, `samtune resume` and `samtune confirm`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import samtune
from analysis.verdicts import compare
from samtune.api.growth import is_space, run_named
from samtune.api.launch import LaunchOptions
from samtune.api.run import Interrupted, Run
from samtune.api.spaces import resolved
from samtune.commands.board import print_board, print_fronts
from samtune.commands.options import (
    json_option,
    launch_options,
    named,
    on_option,
    runs_option,
    seeds_option,
    set_option,
    top_option,
    until_decided_options,
)
from samtune.record.folder import RunError
from samtune.terminal import say
from samtune.views.plan import plans, plans_text

_PLAN_WORDS = ("until_decided", "max_seeds")


@click.command()
@click.argument("spaces", nargs=-1, required=True, metavar="SPACE...")
@set_option
@on_option
@click.option(
    "--add",
    "added",
    multiple=True,
    metavar="SPACE",
    help="Add this space to the run that SPACE names. Repeatable.",
)
@click.option("--name", help="Name of the run; without it, the spaces' names and a count.")
@runs_option
@click.option(
    "--confirm/--no-confirm",
    default=True,
    show_default=True,
    help="Repeat the winner of each space on fresh seeds, which opens the test split.",
)
@top_option
@seeds_option
@until_decided_options
@click.option("--dry-run", is_flag=True, help="Show what would run, and run nothing.")
@launch_options
@json_option
def run(
    spaces: tuple[str, ...],
    overrides: tuple[str, ...],
    on: str | None,
    added: tuple[str, ...],
    name: str | None,
    runs: Path,
    dry_run: bool,
    launch: LaunchOptions,
    as_json: bool,
    **asked: Any,
) -> int:
    """Sweep one or several spaces and print the leaderboard.

    SPACE is a file, or the name of a shipped space: `samtune run spaces/asam.yaml`,
    `samtune run sgd sam asam`, `samtune run sgd sam asam --on cifar10_resnet18`. With the --name
    and the spaces of a run that was stopped, this continues that run.

    A run that exists gains spaces by `samtune run first --add sam`, and trials in each space by
    `samtune run first --set budget.trials=64`. Where a space has the name of the run, name the
    run by its folder: `samtune run runs/first`.
    """
    if (grows := _run_to_grow(spaces, overrides, added, runs)) is not None:
        others = {"--on": on, "--name": name, "--dry-run": dry_run}
        others |= {f"--{word.replace('_', '-')}": asked.pop(word) for word in _PLAN_WORDS}
        _refuse(grows, [option for option, given in others.items() if given])
        launch["cut_short"] = lambda folder, code: _say_all(Run(folder, code), as_json)
        return _answer(lambda: grows.add(added, set=overrides, **asked, **launch), as_json)
    if dry_run:
        # Nothing is known here about the machines of another cluster.
        earlier = None if launch["address"] else runs
        loaded = resolved(spaces, overrides, on, say)
        # scipy takes longer to import than most commands take.
        from samtune.api.seed_plan import Asked, asked_plan

        looks = asked_plan(Asked(**asked), loaded).looks
        planned = plans(
            loaded, confirm=asked["confirm"], top=asked["top"], looks=looks, runs=earlier
        )
        document = {"schema": "plan/1", "spaces": planned}
        click.echo(json.dumps(document) if as_json else plans_text(planned))
        return 0
    launch["cut_short"] = lambda folder, code: _say_all(Run(folder, code), as_json)
    return _answer(
        lambda: samtune.run(
            *spaces, set=overrides, on=on, name=name, runs=runs, **asked, **launch
        ),
        as_json,
    )


def _run_to_grow(
    spaces: tuple[str, ...], overrides: tuple[str, ...], added: tuple[str, ...], runs: Path
) -> Run | None:
    """Return the run that is named in place of a space, None where there are only spaces.

    Raises:
        RunError: There is no such run, or it is not said what it gains (exit code 2).
    """
    word, *rest = spaces
    if added:
        if rest:
            raise RunError(
                f"--add adds to one run, and {', '.join(spaces)} are several words; write "
                f"`samtune run {word} {' '.join(f'--add {space}' for space in (*rest, *added))}`",
                exit_code=2,
            )
        return samtune.load(word, runs)
    folder = run_named(word, runs)
    if rest or folder is None:
        return None
    if is_space(word):
        if any(text.startswith("budget.trials=") for text in overrides):
            say(f"{word} is a space here; `samtune run {folder} ...` adds trials to that run")
        return None
    if not overrides:
        raise RunError(
            f"{word} is a run: `samtune resume {folder.name}` continues it, and `samtune run "
            f"{word} --add SPACE` or `--set budget.trials=N` adds to it",
            exit_code=2,
        )
    return Run(folder.absolute())


def _refuse(run: Run, options: list[str]) -> None:
    """Raise RunError (exit code 2) for options that a run which exists does not take."""
    if options:
        raise RunError(
            f"{run.name} is a run that exists, which takes no {' and no '.join(options)}; its "
            "spaces gain by --add and --set budget.trials=N alone",
            exit_code=2,
        )


@click.command()
@click.argument("name")
@click.option(
    "--no-confirm",
    is_flag=True,
    help="End the run with its search, also in later resumes; `samtune confirm` still confirms.",
)
@click.option(
    "--accept-version-change",
    is_flag=True,
    help="Continue although samtune, torch, ray or optuna is not the version that began the run, "
    "or the trainable's code has changed since.",
)
@runs_option
@launch_options
@json_option
def resume(
    name: str,
    no_confirm: bool,
    accept_version_change: bool,
    runs: Path,
    launch: LaunchOptions,
    as_json: bool,
) -> int:
    """Continue a run that was stopped or killed.

    Interrupted trials continue from their last checkpoints. The spaces are the frozen copies in
    the run's folder.
    """
    run = named(runs, name)
    launch["cut_short"] = lambda folder, code: _say_all(Run(folder, code), as_json)
    return _answer(
        lambda: run.resume(
            confirm=not no_confirm, accept_version_change=accept_version_change, **launch
        ),
        as_json,
    )


@click.command()
@click.argument("name")
@top_option
@seeds_option
@until_decided_options
@runs_option
@launch_options
@json_option
def confirm(
    name: str,
    runs: Path,
    launch: LaunchOptions,
    as_json: bool,
    **asked: Any,
) -> int:
    """Repeat a run's best configurations on fresh seeds.

    Each repeat opens the test split once. How many seeds there are is on record before that, as
    the plan of the run. Repeats that the run already has are kept, so `--seeds 10` after a plan
    of 5 adds 5, which are marked as added.
    """
    run = named(runs, name)
    launch["cut_short"] = lambda folder, code: _say_all(Run(folder, code), as_json)
    return _answer(lambda: run.confirm(**asked, **launch), as_json)


def _answer(train: Callable[[], Run], as_json: bool) -> int:
    """Print the leaderboard of a run that has ended, and return the exit code."""
    try:
        run = train()
    except Interrupted as stopped:
        run = stopped.run
    _say_all(run, as_json)
    return run.exit_code


def _say_all(run: Run, as_json: bool) -> None:
    """Print the leaderboard, and say what has failed and where the files are."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch)]
        run.export(folders[0])
        print_board(*compare(folders), "json" if as_json else "table", folders)
        if not as_json:
            print_fronts(folders, "table")
    if run.exit_code in {1, 3}:
        reasons = dict.fromkeys(error["reason"] for error in run.status()["errors"])
        for reason in [*reasons][:3]:
            say(f"a trial failed: {reason}")
    if run.exit_code == 75:
        say(f"stopped; all of it is on record: `samtune resume {run.name}` continues")
    say(f"files: {run.folder}")
    if (page := run.folder / "report.html").is_file():
        say(f"report: {page}")
