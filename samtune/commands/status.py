"""The command that shows the progress of runs: `samtune status`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.live import Live
from rich.text import Text

from samtune.commands.options import json_option, runs_option
from samtune.messages import SEE
from samtune.record.folder import names as names_of
from samtune.record.record import Record
from samtune.terminal import console_for
from samtune.views.status import status_of, status_text, watched

_TICK_S = 2.0


class _Seconds(click.ParamType[float]):
    """The number of seconds after `--watch`; a run's name there is refused with a hint."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds between 0.1 and 3600, or fail."""
        try:
            seconds = float(value)
        except ValueError:
            self.fail(
                f"{value!r} is no number of seconds; write the run before --watch: "
                f"samtune status {value} --watch"
            )
        if not 0.1 <= seconds <= 3600:
            self.fail(f"{value} is not between 0.1 and 3600 seconds")
        return seconds


@click.command()
@click.argument("name", required=False)
@runs_option
@click.option(
    "--watch",
    type=_Seconds(),
    is_flag=False,
    flag_value=_TICK_S,
    help=f"Repeat every so many seconds ({_TICK_S:g} by default) until the run ends or Ctrl-C.",
)
@json_option
def status(name: str | None, runs: Path, watch: float | None, as_json: bool) -> None:
    """Show the progress of one run, or of all runs."""
    names = [name] if name else names_of(runs)
    if watch is not None and names:
        _watch(runs, names, watch, as_json)
        return
    found = []
    for each in names:
        with Record.open(runs, each, read_only=True) as record:
            found.append(status_of(record))
    if as_json:
        click.echo(_json(found))
    elif not found:
        click.echo(f"no runs in {runs}; `samtune run asam` makes one")
    else:
        click.echo(_text(found))


def _watch(runs: Path, names: list[str], every: float, as_json: bool) -> None:
    """Redraw on a terminal; elsewhere print what has changed, as text or one JSON per line."""
    console, last = console_for(), None
    try:
        if console.is_terminal and not as_json:
            with Live(console=console, auto_refresh=False) as live:
                for found in watched(runs, names, every):
                    live.update(Text(_text(found)), refresh=True)
            return
        for found in watched(runs, names, every):
            news = [{k: v for k, v in status.items() if k != "seconds"} for status in found]
            if news != last:
                last = news
                click.echo(_json(found) if as_json else f"{_text(found)}\n")
    except KeyboardInterrupt:
        # The run goes on.
        return


def _text(found: list[dict[str, Any]]) -> str:
    texts = [status_text(each) for each in found]
    if any(each["budget_kind"] == "compute" for each in found):
        texts.append(SEE)
    return "\n\n".join(texts)


def _json(found: list[dict[str, Any]]) -> str:
    return json.dumps({"schema": "status/1", "runs": found})
