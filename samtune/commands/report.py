"""The command `samtune report`: one page of HTML about runs."""

from __future__ import annotations

import time
import webbrowser
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from samtune.api.report import NAME, report_of
from samtune.commands.options import runs_option
from samtune.errors import SamtuneError
from samtune.record.record import Record
from samtune.terminal import say

_EVERY_S = 5


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"File to write; without it, {NAME} in the run's folder, or here for several runs.",
)
@click.option("--open", "opened", is_flag=True, help="Open the page in a browser.")
@click.option(
    "--watch",
    is_flag=True,
    help="Write the page again while a run goes on; until its end the page reloads itself.",
)
@runs_option
def report(
    names: tuple[str, ...], output: Path | None, opened: bool, watch: bool, runs: Path
) -> None:
    """Write one page of HTML about one or several runs.

    The page needs no network and no other file, so it can be sent as it is.
    """
    with ExitStack() as stack:
        records = [
            stack.enter_context(Record.open(runs, name, read_only=True))
            for name in dict.fromkeys(names)
        ]
        if output is None:
            output = Path(NAME) if len(records) > 1 else records[0].folder / NAME
        going = watch and _write(records, output, watch=True)
        if not going:
            _write(records, output)
        click.echo(output)
        if opened and not webbrowser.open(output.absolute().as_uri()):
            say(f"no browser could be started; open {output} yourself")
        if going:
            _follow(records, output)


def _follow(records: Sequence[Record], output: Path) -> None:
    """Write the page again after each change, until no run goes on; the last one stays."""
    say("the page follows the run; Ctrl-C ends that, and not the run")
    seen = [record.version() for record in records]
    try:
        while any(record.is_locked() for record in records):
            time.sleep(_EVERY_S)
            now = [record.version() for record in records]
            if now != seen:
                seen = now
                _write(records, output, watch=True)
    except KeyboardInterrupt:
        pass
    _write(records, output)


def _write(records: Sequence[Record], output: Path, watch: bool = False) -> bool:
    """Write the page, and return whether it reloads itself because a run goes on."""
    going = watch and any(record.is_locked() for record in records)
    try:
        report_of(records, _EVERY_S if going else None).save(output)
    except OSError as error:
        raise SamtuneError(f"cannot write {output}: {error.strerror}", exit_code=5) from None
    return going
