"""The command that estimates what other rungs would have spent and missed."""

from __future__ import annotations

import json
from pathlib import Path

import click

from samtune.commands.options import json_option, runs_option
from samtune.record.published import SUMS
from samtune.record.record import Record
from samtune.views.replay import replay_of, replay_of_published, replay_text


@click.command()
@click.argument("name", metavar="RUN|DIR")
@click.option(
    "--asha",
    "rules",
    multiple=True,
    required=True,
    metavar="WORD=VALUE,...",
    help="A rule, such as mode=promote,grace=4,factor=3,tolerance=1; words that are left out are "
    "as in the run. Repeatable.",
)
@click.option(
    "--slots", type=click.IntRange(1), default=1, show_default=True, help="Trials at a time."
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Random orders in which the trials arrive.",
)
@runs_option
@json_option
def replay(
    name: str, rules: tuple[str, ...], slots: int, seeds: int, runs: Path, as_json: bool
) -> None:
    """Estimate what other rungs would have spent and missed.

    Nothing is trained: this replays the curves of RUN, which must have run without early stopping
    (`--set asha.grace=BUDGET`, where BUDGET is the budget per trial). DIR is a folder that
    `samtune publish` wrote; its checksums are verified.
    """
    if (Path(name) / SUMS).is_file():
        studies = replay_of_published(Path(name), rules, slots, seeds)
    else:
        with Record.open(runs, name, read_only=True) as record:
            studies = replay_of(record, rules, slots, seeds)
    if as_json:
        click.echo(json.dumps({"schema": "replay/1", "run": name, "studies": studies}))
    else:
        click.echo("\n\n".join(replay_text(study) for study in studies))
