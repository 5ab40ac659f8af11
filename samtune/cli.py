"""The command line: all commands, and how each mistake ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from samtune import __version__
from samtune.commands.data import data
from samtune.commands.doctor import doctor
from samtune.commands.look import export_tables, leaderboard, status
from samtune.commands.replay import replay
from samtune.commands.run import confirm, resume, run
from samtune.commands.spaces import spaces
from samtune.commands.stop import stop
from samtune.commands.trials import best, show, trials
from samtune.errors import SamtuneError

EXIT_CODES = """
Exit codes: 0 done; 1 failed; 2 wrong usage or space file; 3 done, but some trials failed;
4 run name in use; 5 environment (folder, disk, data, Ray); 75 stopped, nothing lost (`resume`
goes on); 130 stopped twice.
"""


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="samtune")
def cli() -> None:
    """Which sharpness-aware optimizer, with which settings, for my problem and my budget?"""


for command in (
    *(run, resume, stop, confirm),
    *(status, trials, show, best, leaderboard, export_tables, replay),
    *(spaces, data, doctor),
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: every mistake of a user ends in sentences and an exit code."""
    try:
        sys.exit(cli(arguments, prog_name="samtune", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("samtune: stopped; no trial was running", err=True)
        sys.exit(75)
    except SamtuneError as error:
        if os.environ.get("SAMTUNE_DEBUG"):
            raise
        for sentence in error.messages:
            click.echo(f"samtune: {sentence}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if os.environ.get("SAMTUNE_DEBUG"):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        click.echo(f"samtune: {first}", err=True)
        click.echo("samtune: this is a fault of samtune's; SAMTUNE_DEBUG=1 shows where", err=True)
        sys.exit(1)
