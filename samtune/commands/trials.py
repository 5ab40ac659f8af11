"""The commands that look into a run: its trials, one of them in full, and the best one."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import click

from samtune.commands.options import format_option, json_option, named, runs_option
from samtune.commands.tables import csv_table, markdown_table, print_table
from samtune.messages import clock, knob_list, unit
from samtune.record.record import Record
from samtune.terminal import console_for
from samtune.views.trials import (
    BARS,
    shown_metrics,
    sorted_trials,
    sparkline,
    trial_of,
    trials_of,
)

_PLOT_WIDTH = 60
_STATES = ["running", "paused", "completed", "pruned", "diverged", "error", "cancelled"]

space_option = click.option("--space", help="Only this space of the run.")


@click.command()
@click.argument("name")
@space_option
@click.option("--state", type=click.Choice(_STATES), help="Only trials in this state.")
@click.option(
    "--sort",
    type=click.Choice(["value", "used", "rung", "attempts", "state"]),
    help="Sort by this; without it, trials are listed in the order in which they were proposed.",
)
@runs_option
@format_option
@json_option
def trials(
    name: str,
    space: str | None,
    state: str | None,
    sort: str | None,
    runs: Path,
    form: str,
    as_json: bool,
) -> None:
    """List the trials of a run.

    `samtune show NAME TRIAL` shows everything about one of them.
    """
    with Record.open(runs, name, read_only=True) as record:
        found = trials_of(record, space, state)
        if sort:
            found = sorted_trials(found, sort, record.studies()[0].settings["mode"])
    match "json" if as_json else form:
        case "json":
            click.echo(json.dumps({"schema": "trials/1", "run": name, "trials": found}))
        case "csv":
            knobs = list(dict.fromkeys(knob for trial in found for knob in trial["knobs"]))
            plain = ["space", "trial", "stage", "state", "value", "rung", "used", "epoch"]
            plain += ["attempts", "origin", "reason"]
            aims = _aims(found)
            rows = [
                [trial[word] for word in plain]
                + [trial["aims"].get(name) for name in aims]
                + [trial["knobs"].get(knob) for knob in knobs]
                for trial in found
            ]
            heads = [*plain, *aims, *(f"knob.{knob}" for knob in knobs)]
            click.echo(csv_table(heads, rows), nl=False)
        case "md":
            click.echo(markdown_table(*_table(found)))
        case _ if found:
            print_table(*_table(found))
        case _:
            click.echo(f"no such trial in run {name!r}; `samtune status {name}` counts them")


def _table(found: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the cells of a table of trials."""
    several, aims = len({trial["space"] for trial in found}) > 1, _aims(found)
    headings = ["trial", "state", "value", *aims, "rung", "used", "knobs", "attempts", "reason"]
    return headings, [
        [
            f"{trial['space']}:{trial['trial']}" if several else trial["trial"],
            trial["state"],
            _number(trial["value"], ".4f"),
            *(_number(trial["aims"].get(name), ".4g") for name in aims),
            _number(trial["rung"], "d"),
            _number(trial["used"], ".4g"),
            knob_list({k: v for k, v in trial["knobs"].items() if k in trial["searched"]}),
            str(trial["attempts"]),
            "; ".join([*filter(None, [trial["reason"]]), *(f"not {m}" for m in trial["misses"])]),
        ]
        for trial in found
    ]


def _aims(found: list[dict[str, Any]]) -> list[str]:
    """Return the further metrics that the searches of some trials improve."""
    return list(dict.fromkeys(name for trial in found for name in trial["aims"]))


@click.command()
@click.argument("name")
@click.argument("trial")
@runs_option
@json_option
def show(name: str, trial: str, runs: Path, as_json: bool) -> None:
    """Show everything about one trial.

    This includes its knobs, attempts and events, its curve and the decisions of the rungs. TRIAL
    is a number. In a run of several spaces write the space as well, as in sam:5. r2 is repeat 2.
    """
    with Record.open(runs, name, read_only=True) as record:
        found = trial_of(record, trial)
    if as_json:
        click.echo(json.dumps({"schema": "trial/1", **found}))
    else:
        _print_trial(found)


def _print_trial(trial: dict[str, Any]) -> None:
    state = f"{trial['state']} ({trial['reason']})" if trial["reason"] else trial["state"]
    click.echo(f"{trial['run']}, {trial['space']}:{trial['trial']}: {state}")
    click.echo(f"  {trial['variant']} on {trial['base']}, {trial['origin']}")
    click.echo(f"  knobs     {knob_list(trial['knobs'], most=None)}")
    click.echo(f"  task      {knob_list(trial['task'], most=None)}")
    click.echo(f"  seeds     {knob_list(trial['seeds'])}")
    budget, curve = trial["budget"], trial["curve"]
    used = curve[-1]["used"] if curve else 0.0
    click.echo(f"  used      {used:.4g} of {budget['per_trial']:g} {unit(budget['kind'])}")
    if trial["checkpoint"]:
        click.echo(f"  weights   {trial['checkpoint']}")
    for attempt in trial["attempts"]:
        length = "not ended" if attempt["wall_s"] is None else f"{clock(attempt['wall_s'])} long"
        cause = attempt.get("cause")
        click.echo(f"  attempt {attempt['attempt']} {length}{f', {cause}' if cause else ''}")
    for event in trial["events"]:
        *traceback, last = event["detail"].strip().splitlines() or [""]
        click.echo(f"  {event['kind']}: {last}")
        for line in traceback:
            click.echo(f"    {line}")
    if not curve:
        click.echo("  no report yet")
        return
    _print_plot(trial)
    names = shown_metrics(trial)
    headings = ["epoch", "used", trial["metric"], "decision", "rung", "cutoff", *names, "attempt"]
    rows = [
        [
            str(report["epoch"]),
            _number(report["used"], ".4g"),
            _number(report["value"], ".4f"),
            report["decision"] or "-",
            _number(report["rung"], "d"),
            _number(report["cutoff"], ".4f"),
            *(_number(report["metrics"].get(name), ".4g") for name in names),
            str(report["attempt"]),
        ]
        for report in curve
    ]
    print_table(headings, rows, least=3)


def _print_plot(trial: dict[str, Any]) -> None:
    values = [report["value"] for report in trial["curve"]]
    finite = [value for value in values if value is not None]
    try:
        BARS.encode(sys.stdout.encoding or "ascii")
        bars = BARS
    except UnicodeEncodeError:
        bars = "_.-=*#"
    width = min(_PLOT_WIDTH, max(10, console_for().width - 40))
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    plot = sparkline(values, width, bars)
    click.echo(
        f"  {trial['metric']} {low:.4f} {plot} {high:.4f}, last {_number(values[-1], '.4f')}"
    )


@click.command()
@click.argument("name")
@space_option
@click.option("--python", "as_python", is_flag=True, help="A script that trains the winner.")
@runs_option
@json_option
def best(name: str, space: str | None, as_python: bool, runs: Path, as_json: bool) -> None:
    """Print the winning configuration as a space file.

    With --python it is a complete script instead. `samtune best NAME > best.yaml` and then
    `samtune run best.yaml` train and confirm it once more.
    """
    found = named(runs, name).best(space)
    if as_json:
        click.echo(json.dumps({"schema": "best/1", **dataclasses.asdict(found)}))
    elif as_python:
        click.echo(found.python, nl=False)
    else:
        click.echo(found.space_file, nl=False)
        click.echo(f"# `samtune best {name} --python` prints a script that trains it")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
