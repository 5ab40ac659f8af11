"""The command that checks a machine: `samtune doctor`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from samtune.commands.checks import Check, checks
from samtune.commands.options import address_option, json_option, runs_option


@click.command()
@click.option(
    "--ray/--no-ray",
    "with_ray",
    default=True,
    help="Whether to start a Ray, to see that it works.",
)
@runs_option
@address_option
@json_option
def doctor(with_ray: bool, runs: Path, address: str | None, as_json: bool) -> int:
    """Check versions, devices, disk, data sets and Ray.

    Exit code 5 when something that a sweep needs is broken.
    """
    found: list[Check] = []
    for check in checks(runs, with_ray, address):
        found.append(check)
        if not as_json:
            click.echo(f"{check.state:8} {check.name:16} {check.detail}")
    broken = [check.name for check in found if check.state == "broken"]
    if as_json:
        rows = [dataclasses.asdict(check) for check in found]
        click.echo(json.dumps({"schema": "doctor/1", "healthy": not broken, "checks": rows}))
    elif broken:
        click.echo(f"broken: {'; '.join(broken)}", err=True)
    return 5 if broken else 0
