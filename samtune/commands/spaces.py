"""Space files: what is shipped, what one resolves to, whether one is right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from samtune.commands.options import json_option, on_option, set_option

if TYPE_CHECKING:
    from samtune.space.search_space import SearchSpace


@click.group()
def spaces() -> None:
    """List, show and check space files."""


@spaces.command("list")
@json_option
def list_spaces(as_json: bool) -> None:
    """The shipped spaces."""
    from samtune.space.search_space import shipped

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
    space: str, overrides: tuple[str, ...], setting: str | None, origin: bool, as_json: bool
) -> None:
    """What a space resolves to, every default filled in."""
    (loaded,) = load_spaces([space], overrides, setting)
    if as_json:
        from samtune.views.plan import plan

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
def check_spaces(files: tuple[str, ...], overrides: tuple[str, ...], setting: str | None) -> None:
    """Tells every mistake in space files; exit code 2 if there is one."""
    for space in load_spaces(files, overrides, setting):
        click.echo(f"{space.path}: right; {space.name}, SHA-256 {space.sha256[:16]}")


@spaces.command("schema")
def print_schema() -> None:
    """The JSON Schema of space files, for editors."""
    from samtune.space.search_space import space_schema

    click.echo(json.dumps(space_schema(), indent=2))


def load_spaces(
    references: Sequence[str], overrides: Sequence[str], setting: str | None = None
) -> list[SearchSpace]:
    """All spaces, or every mistake in all of them at once."""
    from samtune.space.search_space import SearchSpace, SpaceError

    loaded, messages = [], []
    for reference in references:
        try:
            space = SearchSpace.load(reference, overrides, setting)
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
