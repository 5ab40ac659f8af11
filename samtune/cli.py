"""The command line: all commands, and how each mistake ends."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from itertools import pairwise

import click

from samtune import __version__
from samtune.commands.streams import OutputError, standard_streams
from samtune.errors import SamtuneError
from samtune.messages import as_setting, nearest, printable

EXIT_CODES = """
Exit codes: 0 done; 1 failed; 2 wrong usage or space file; 3 done, but some trials failed;
4 run name in use; 5 environment (folder, disk, data, Ray, output); 75 stopped, nothing lost
(`resume` continues); 130 stopped twice.
"""

# Name: where the command is, and its line in the list of commands.
COMMANDS = {
    "run": ("run:run", "Sweep one or several spaces and print the leaderboard."),
    "resume": ("run:resume", "Continue a run that was stopped or killed."),
    "stop": ("stop:stop", "Ask a run to stop, and wait until it has stopped."),
    "confirm": ("run:confirm", "Repeat a run's best configurations on fresh seeds."),
    "status": ("status:status", "Show the progress of one run, or of all runs."),
    "trials": ("trials:trials", "List the trials of a run."),
    "show": ("trials:show", "Show everything about one trial."),
    "logs": ("logs:logs", "Show what a trial printed, and the tracebacks of its failures."),
    "best": ("trials:best", "Print the winning configuration as a space file."),
    "leaderboard": (
        "leaderboard:leaderboard",
        "Compare the confirmed winners of one or several runs.",
    ),
    "report": ("report:report", "Write one page of HTML about one or several runs."),
    "sharpness": (
        "sharpness:sharpness",
        "Measure the sharpness of a run's confirmed models.",
    ),
    "plot": ("plot:plot", "Draw a chart of a run."),
    "export": ("leaderboard:export_tables", "Write the tables of a run again from its record."),
    "publish": (
        "publish:publish",
        "Write the tables and spaces of RUN to DIR, with a datasheet and checksums.",
    ),
    "replay": ("replay:replay", "Estimate what other rungs would have spent and missed."),
    "import": ("imports:import_", "Make a space file from another tuner's results."),
    "ls": ("runs:list_runs", "List all runs, the newest first."),
    "rm": ("runs:remove_runs", "Remove runs with all their files."),
    "mv": ("runs:rename_run", "Rename a run."),
    "note": ("runs:note_run", "Add a note to a run, which `samtune ls` shows."),
    "spaces": ("spaces:spaces", "List, show and check space files."),
    "data": ("data:data", "List, fetch and check data sets."),
    "doctor": ("doctor:doctor", "Check versions, devices, disk, data sets and Ray."),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is typed, and not for the list of commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order in which they are listed."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name, imported; None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        found = getattr(importlib.import_module(f"samtune.commands.{module}"), attribute)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the typed command; an unknown one is refused with the nearest name."""
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            ctx.fail(f"no such command {args[0]!r}; {nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(
    cls=LazyGroup, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="samtune")
def cli() -> None:
    """Find which sharpness-aware optimizer to use, and with which settings."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that was typed; every mistake ends in sentences and an exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with standard_streams():
        code = _run(words)
    sys.exit(code)


def _run(words: Sequence[str]) -> int:
    """Return the exit code of the command."""
    try:
        code = cli.main(words, prog_name="samtune", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except OutputError as error:
        _say(error.messages)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        if isinstance(error, click.NoSuchOption) and (hint := as_setting(error.option_name)):
            _say([hint])
        return _failed(words, [error.format_message()], error.exit_code)
    except click.Abort:
        messages, code = ["stopped; nothing was changed"], 75
    except Exception as error:
        if os.environ.get("SAMTUNE_DEBUG"):
            raise
        messages, code = _explained(error)
    _say(messages)
    return _failed(words, messages, code)


def _explained(error: Exception) -> tuple[list[str], int]:
    """Return what to tell of an error, and the exit code."""
    if isinstance(error, SamtuneError):
        return error.messages, error.exit_code
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return [first, "this is a fault of samtune's; SAMTUNE_DEBUG=1 shows where"], 1


def _say(messages: Sequence[str]) -> None:
    for message in messages:
        click.echo(f"samtune: {printable(message)}", err=True)


def _failed(words: Sequence[str], messages: Sequence[str], code: int) -> int:
    """Return the exit code, after the one JSON document on stdout where that was asked for."""
    asked = {"--json", "--format=json"} & set(words) or ("--format", "json") in pairwise(words)
    if asked:
        document = {"schema": "error/1", "exit_code": code, "messages": list(messages)}
        try:
            click.echo(json.dumps(document))
        except OutputError as error:
            _say(error.messages)
    return code
