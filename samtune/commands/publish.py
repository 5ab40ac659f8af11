"""The command that writes a run as a tabular benchmark: `samtune publish`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from samtune.api.publish import publish as write
from samtune.commands.options import json_option, runs_option
from samtune.record.folder import RunError
from samtune.record.record import Record


@click.command()
@click.argument("name", metavar="RUN")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--license", default="CC-BY-4.0", show_default=True, help="Licence of the tables, by SPDX."
)
@runs_option
@json_option
def publish(name: str, folder: Path, license: str, runs: Path, as_json: bool) -> None:
    """Write the tables and spaces of RUN to DIR, with a datasheet and checksums.

    `samtune replay DIR` reads it back and verifies every file.
    """
    with Record.open(runs, name, read_only=True) as record:
        try:
            written = write(record, folder, license)
        except OSError as error:
            raise RunError(
                f"cannot write {error.filename or folder}: {error.strerror}; choose another DIR",
                exit_code=5,
            ) from None
    if as_json:
        click.echo(json.dumps({"schema": "publish/1", "files": list(map(str, written))}))
    else:
        click.echo(f"published {name}: {len(written)} files in {folder}")
