"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

runs_option = click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    envvar="SAMTUNE_RUNS",
    show_default=True,
    help="The folder that holds one folder a run.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress.")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="WORD=VALUE",
    help="Changes a value of the space: lr.max=0.3, task.label_noise=0, rho=0.05. Repeatable.",
)
top_option = click.option(
    "--top", type=click.IntRange(1), help="How many configurations to confirm."
)
seeds_option = click.option("--seeds", type=click.IntRange(1), help="How many fresh seeds each.")


address_option = click.option(
    "--address", help="A running Ray cluster to join; else one is started."
)


@dataclass(frozen=True)
class Place:
    """Where trials run and what of a run is kept elsewhere: the words of `place_options`."""

    address: str | None
    storage: str | None
    ship_code: bool


_PLACE_OPTIONS = (
    address_option,
    click.option(
        "--storage",
        envvar="SAMTUNE_STORAGE",
        metavar="URL",
        help="Where the run is copied to once a minute: a path, s3://bucket/folder, ...",
    ),
    click.option(
        "--ship-code",
        is_flag=True,
        help="Send samtune and the trainable to a cluster that does not have them.",
    ),
)


def place_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --address, --storage and --ship-code, which the command gets as one `place`."""

    @wraps(command)
    def placed(
        *words: Any, address: str | None, storage: str | None, ship_code: bool, **others: Any
    ) -> None:
        if storage is not None and "://" not in storage:
            # Workers have a working folder of their own.
            storage = str(Path(storage).absolute())
        command(*words, place=Place(address, storage, ship_code), **others)

    for option in reversed(_PLACE_OPTIONS):
        placed = option(placed)
    return placed
