"""Space files: what is shipped, what one resolves to, whether one is right."""

from __future__ import annotations

import json
from pathlib import Path

import click

from samtune.api.spaces import resolved
from samtune.commands.options import json_option, on_option, set_option
from samtune.space.conversion import from_wandb
from samtune.space.errors import SpaceError
from samtune.space.search_space import shipped, space_schema
from samtune.terminal import say
from samtune.views.plan import plan


@click.group()
def spaces() -> None:
    """List, show and check space files."""


@spaces.command("list")
@json_option
def list_spaces(as_json: bool) -> None:
    """List the shipped spaces."""
    paths = shipped()
    if as_json:
        click.echo(
            json.dumps({"schema": "spaces/1", "spaces": {k: str(v) for k, v in paths.items()}})
        )
        return
    width = max(map(len, paths))
    for name, path in paths.items():
        first = path.read_text().splitlines()[0].lstrip("# ")
        click.echo(f"{name:{width}}  {first}")


@spaces.command("show")
@click.argument("space")
@set_option
@on_option
@click.option("--origin", is_flag=True, help="Where each value comes from.")
@json_option
def show_space(
    space: str, overrides: tuple[str, ...], on: str | None, origin: bool, as_json: bool
) -> None:
    """Print the resolved space, with every default filled in."""
    (loaded,) = resolved([space], overrides, on, say)
    if as_json:
        click.echo(json.dumps({"schema": "space/1", **plan(loaded)}))
    elif origin:
        width = max(map(len, loaded.origin))
        for path, where in loaded.origin.items():
            click.echo(f"{path:{width}}  {where}")
    else:
        click.echo(loaded.text, nl=False)


@spaces.command("check")
@click.argument("files", nargs=-1, required=True, metavar="SPACE...")
@set_option
@on_option
def check_spaces(files: tuple[str, ...], overrides: tuple[str, ...], on: str | None) -> None:
    """Report every mistake in space files. The exit code is 2 if there is one."""
    for space in resolved(files, overrides, on, say):
        click.echo(f"{space.path}: right; {space.name}, SHA-256 {space.sha256[:16]}")


@spaces.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of space files, for editors."""
    click.echo(json.dumps(space_schema(), indent=2))


@spaces.command("from-wandb")
@click.argument("sweep", type=click.Path(path_type=Path))
def convert_sweep(sweep: Path) -> None:
    """Print a space file with the knobs of a Weights & Biases sweep.

    Comments at the top list what cannot be converted.
    """
    try:
        text = sweep.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError([f"{sweep} cannot be read: {error}"]) from None
    click.echo(from_wandb(text).text, nl=False)
