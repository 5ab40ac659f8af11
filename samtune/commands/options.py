"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from samtune.api.launch import LaunchOptions
from samtune.api.run import Run
from samtune.record.folder import place

runs_option = click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    envvar="SAMTUNE_RUNS",
    show_default=True,
    help="The folder that holds the runs, one folder per run.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "md", "csv", "json"]),
    default="table",
    show_default=True,
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="WORD=VALUE",
    help="Change a value of the space: lr.max=0.3, task.label_noise=0, rho=0.05. Repeatable.",
)
on_option = click.option(
    "--on",
    metavar="SPACE",
    help="Take the task, budget, search, rungs and resources from this space: cifar10_resnet18.",
)
top_option = click.option(
    "--top", type=click.IntRange(1), help="How many configurations to confirm."
)
seeds_option = click.option(
    "--seeds",
    type=click.IntRange(1),
    help="How many fresh seeds each: a fixed plan. Once test was opened, seeds beyond the plan "
    "are marked as added.",
)
_UNTIL_DECIDED = (
    click.option(
        "--until-decided",
        is_flag=True,
        default=None,
        help="Look at 5, 10, 15 and 20 seeds; what is better, worse or tied then gets no more. "
        "The default for more than three spaces.",
    ),
    click.option(
        "--max-seeds", type=int, help="The most seeds until decided: 10, 15 or 20, the default."
    ),
)


def until_decided_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--until-decided` and `--max-seeds`."""
    for option in reversed(_UNTIL_DECIDED):
        command = option(command)
    return command


def named(runs: Path, name: str) -> Run:
    """Return the run of this name or folder. Raises RunError (exit code 2) for what is no name."""
    return Run(place(runs, name))


def address_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--address`, and `--allow-open-ray`, which is kept in the environment."""
    address = click.option(
        "--address",
        help="Address of a running Ray cluster; without it, Ray is started on this machine.",
    )
    allow = click.option(
        "--allow-open-ray",
        is_flag=True,
        expose_value=False,
        callback=_allow_open_ray,
        help="Start Ray even if RAY_AUTH_MODE=disabled lets everyone on the network use it.",
    )
    return address(allow(command))


def _allow_open_ray(context: click.Context, option: click.Parameter, allowed: bool) -> None:
    if allowed:
        os.environ["SAMTUNE_ALLOW_OPEN_RAY"] = "1"


_LAUNCH_OPTIONS = (
    address_option,
    click.option(
        "--storage",
        envvar="SAMTUNE_STORAGE",
        metavar="URL",
        help="Copy the run there once a minute: a path, s3://bucket/folder, ...",
    ),
    click.option(
        "--ship-code",
        is_flag=True,
        help="Send samtune and your code to a cluster that does not have them.",
    ),
    click.option(
        "--log",
        multiple=True,
        type=click.Choice(["tensorboard", "wandb", "mlflow"]),
        help="Also log to a folder of that name in the run's folder. Repeatable.",
    ),
    click.option(
        "--hook",
        metavar="MODULE:FUNCTION",
        help="Call this function with a dict for each report.",
    ),
    click.option(
        "--time-limit",
        metavar="TIME",
        help="Begin no more trials of the search after 8h, 90m, ... of work, counted over all "
        "resumes. What runs goes on, and the winners are confirmed.",
    ),
    quiet_option,
)


def launch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that train, which the command gets as `LaunchOptions`."""

    @wraps(command)
    def launched(
        *words: Any,
        address: str | None,
        storage: str | None,
        ship_code: bool,
        log: tuple[str, ...],
        hook: str | None,
        time_limit: str | None,
        quiet: bool,
        **others: Any,
    ) -> Any:
        launch = LaunchOptions(
            address=address,
            storage=storage,
            ship_code=ship_code,
            log=log,
            hook=hook,
            progress=not quiet,
            time_limit=time_limit,
        )
        return command(*words, launch=launch, **others)

    for option in reversed(_LAUNCH_OPTIONS):
        launched = option(launched)
    return launched
