"""The commands for data sets: list, fetch and check them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from samtune.commands.options import json_option, quiet_option
from samtune.terminal import say
from trainables.datasets.catalogue import Entry, check, checked_entries, entries, fetch
from trainables.datasets.store import root


def _use_root(_: click.Context, __: click.Parameter, folder: Path | None) -> None:
    if folder is not None:
        os.environ["SAMTUNE_DATA_ROOT"] = str(folder.absolute())


root_option: Callable[[Any], Any] = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    expose_value=False,
    callback=_use_root,
    help="Folder of the data sets; without it, SAMTUNE_DATA_ROOT, or samtune/data in your cache.",
)
size_option = click.option(
    "--image-size",
    type=click.IntRange(0, 1024),
    default=0,
    help="Side length to which images are resized and cropped; 0 keeps it (imagenet: 224).",
)


@click.group()
def data() -> None:
    """List, fetch and check data sets."""


@data.command("list")
@root_option
@json_option
def list_sets(as_json: bool) -> None:
    """List every data set, where it is, and how to get it."""
    _show(list(entries()), as_json)


@data.command("fetch")
@click.argument("name")
@click.option(
    "--from-file",
    type=click.Path(path_type=Path),
    help="The set's official archive, if you have it already; nothing is downloaded.",
)
@size_option
@root_option
@quiet_option
def fetch_set(name: str, from_file: Path | None, image_size: int, quiet: bool) -> None:
    """Download and check a data set, and map it for trials to share.

    NAME is one that `samtune data list` shows, or folder:/path or parquet:/path: its images are
    then mapped. parquet:/path#column takes the labels from that column. No other command downloads
    anything.
    """
    fetch(name, from_file, image_size, _say_nothing if quiet else say)
    entry = check(name, image_size)
    if not quiet:
        say(f"{entry.name}: {entry.note}, in {entry.where}")


@data.command("check")
@click.argument("name", required=False)
@size_option
@root_option
@json_option
def check_sets(name: str | None, image_size: int, as_json: bool) -> int:
    """Read every byte of one data set, or of all; exit code 5 if one is damaged."""
    found = [check(name, image_size)] if name else list(checked_entries())
    _show(found, as_json)
    return 5 if any(entry.state == "damaged" for entry in found) else 0


def _show(found: list[Entry], as_json: bool) -> None:
    if as_json:
        rows = [dataclasses.asdict(entry) for entry in found]
        click.echo(json.dumps({"schema": "data/1", "sets": rows}))
        return
    width = max((len(entry.name) for entry in found), default=0)
    for entry in found:
        click.echo(f"{entry.name:{width}}  {entry.state:8} {entry.note}")
    say(f"in {root()}")


def _say_nothing(_: str) -> None:
    pass
