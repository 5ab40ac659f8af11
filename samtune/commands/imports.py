"""The command `samtune import`: spaces from what another tuner has recorded."""

from __future__ import annotations

import click

from samtune.search.imported_study import from_optuna


@click.group("import")
def import_() -> None:
    """Make a space file from another tuner's results."""


@import_.command("optuna")
@click.argument("source", metavar="FILE|URL")
@click.option("--study", help="Name of the study, where the storage has several.")
def import_optuna(source: str, study: str | None) -> None:
    """Print a space file with the knobs of an Optuna study.

    SOURCE is an SQLite file, a journal file or a database URL. The study's best trials are the
    first ones of the space. Comments at the top list what cannot be converted.
    """
    click.echo(from_optuna(source, study).text, nl=False)
