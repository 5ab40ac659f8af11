"""The page of the commands, from click."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from docs.markdown import cell, heading, table
from samtune.cli import COMMANDS, EXIT_CODES, cli

_HEAD = """# Commands

`python docs/make_reference.py` makes this page from the code. `--help` after a command prints
the same. Commands that print data take `--json`: standard output is then one JSON document, of an
error as well: `{"schema": "error/1", "exit_code": 2, "messages": ["..."]}`.
"""


def commands() -> str:
    """Return the page of the commands."""
    codes = " ".join(EXIT_CODES.split()).removeprefix("Exit codes: ").rstrip(".")
    rows = [each.strip().split(" ", 1) for each in codes.split(";")]
    parts = [_HEAD, heading("Exit codes"), table(("Code", "Meaning"), rows)]
    context = click.Context(cli, info_name="samtune")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        parts += _command(command, click.Context(command, context, info_name=name))
    return "\n".join(parts).rstrip() + "\n"


def _command(command: click.Command, context: click.Context, level: int = 2) -> Iterator[str]:
    yield heading(f"`{context.command_path}`", level)
    yield f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"
    yield _paragraphs(command.help or "")
    rows = [
        _option(option, context) for option in command.params if isinstance(option, click.Option)
    ]
    if rows:
        yield table(("Option", "Takes", "Default", "Meaning"), rows)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _command(below, click.Context(below, context, info_name=name), level + 1)


def _paragraphs(text: str) -> str:
    """Return a command's help, each paragraph on its own."""
    return inspect.cleandoc(text).replace("\b", "") + "\n"


def _option(option: click.Option, context: click.Context) -> tuple[str, str, str, str]:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    takes = "" if option.is_flag else f"`{option.make_metavar(context)}`"
    variables = option.envvar if isinstance(option.envvar, str) else ""
    default = option.get_default(context, call=False)
    shown = f"`{default}`" if option.show_default and default not in (None, ()) else ""
    about = cell(option.help or "")
    return names, cell(takes), shown, f"{about} Variable: `{variables}`." if variables else about
