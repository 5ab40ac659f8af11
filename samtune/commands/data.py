"""Data sets: what there is, getting one ready, and whether they are whole."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from samtune.commands.options import json_option, quiet_option

if TYPE_CHECKING:
    from trainables.datasets.catalogue import Entry


def _use_root(_: click.Context, __: click.Parameter, folder: Path | None) -> None:
    if folder is not None:
        os.environ["SAMTUNE_DATA_ROOT"] = str(folder.absolute())


root_option: Callable[[Any], Any] = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    expose_value=False,
    callback=_use_root,
    help="Where data sets are kept; else SAMTUNE_DATA_ROOT, else samtune/data in your cache.",
)
size_option = click.option(
    "--image-size",
    type=click.IntRange(0, 1024),
    default=0,
    help="Side that images of a folder are resized and cut to; 0 keeps theirs (imagenet: 224).",
)


@click.group()
def data() -> None:
    """List, fetch and check data sets."""


@data.command("list")
@root_option
@json_option
def list_sets(as_json: bool) -> None:
    """Every data set: whether it is there, where, and how to get it."""
    from trainables.datasets.catalogue import entries

    _show(list(entries()), as_json)


@data.command("fetch")
@click.argument("name")
@click.option(
    "--from-file",
    type=click.Path(path_type=Path),
    help="The set's official archive, carried here by hand; nothing is downloaded.",
)
@size_option
@root_option
@quiet_option
def fetch_set(name: str, from_file: Path | None, image_size: int, quiet: bool) -> None:
    """Downloads and checks a data set, and maps it for trials to share.

    NAME is one that `samtune data list` tells, or folder:/path or parquet:/path, whose images are
    mapped; parquet:/path#column takes the labels of that column. No other command downloads.
    """
    from trainables.datasets.catalogue import check, fetch

    fetch(name, from_file, image_size, _quiet if quiet else partial(click.echo, err=True))
    entry = check(name, image_size)
    if not quiet:
        click.echo(f"{entry.name}: {entry.note}, in {entry.where}", err=True)


@data.command("check")
@click.argument("name", required=False)
@size_option
@root_option
@json_option
def check_sets(name: str | None, image_size: int, as_json: bool) -> None:
    """Reads every byte of one set, or of all that are there; exit code 5 if one is wrong."""
    from trainables.datasets.catalogue import check, checked_entries

    found = [check(name, image_size)] if name else list(checked_entries())
    _show(found, as_json)
    sys.exit(5 if any(entry.state == "damaged" for entry in found) else 0)


def _show(found: list[Entry], as_json: bool) -> None:
    if as_json:
        rows = [dataclasses.asdict(entry) for entry in found]
        click.echo(json.dumps({"schema": "data/1", "sets": rows}))
        return
    width = max((len(entry.name) for entry in found), default=0)
    for entry in found:
        click.echo(f"{entry.name:{width}}  {entry.state:8} {entry.note}")
    from trainables.datasets.store import root

    click.echo(f"in {root()}", err=True)


def _quiet(_: str) -> None:
    pass
