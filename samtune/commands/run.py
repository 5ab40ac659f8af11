"""The commands that train: `samtune run`, `samtune resume` and `samtune confirm`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from samtune.commands.options import (
    Launch,
    json_option,
    launch_options,
    on_option,
    runs_option,
    seeds_option,
    set_option,
    top_option,
)
from samtune.commands.spaces import load_spaces
from samtune.commands.stages import finish, room, run_stages

if TYPE_CHECKING:
    from samtune.record.record import Record
    from samtune.space.search_space import SearchSpace

# Of a version or a SHA-256.
_SHOWN = 24


@click.command()
@click.argument("spaces", nargs=-1, required=True, metavar="SPACE...")
@set_option
@on_option
@click.option("--name", help="Name of the run; else the spaces' names and a count.")
@runs_option
@click.option(
    "--confirm/--no-confirm",
    "confirmed",
    default=True,
    show_default=True,
    help="Re-run the winner of each space on fresh seeds and open test.",
)
@top_option
@seeds_option
@click.option("--dry-run", is_flag=True, help="Show what would run, and run nothing.")
@launch_options
@json_option
def run(
    spaces: tuple[str, ...],
    overrides: tuple[str, ...],
    setting: str | None,
    name: str | None,
    runs: Path,
    confirmed: bool,
    top: int | None,
    seeds: int | None,
    dry_run: bool,
    launch: Launch,
    as_json: bool,
) -> None:
    """Sweep one or several spaces and print the leaderboard.

    SPACE is a file, or the name of a shipped space: `samtune run spaces/asam.yaml`,
    `samtune run sgd sam asam`, `samtune run sgd sam asam --on cifar10_resnet18`. With the --name
    and the spaces of a run that was stopped, this continues that run.
    """
    from samtune.record.folder import check_name, refuse_taken
    from samtune.record.record import Record
    from samtune.record.storage import copied
    from samtune.sweep import observers as integrations

    integrations.check(launch.logs, launch.hook)
    stopped = name is not None and (runs / check_name(name) / "sweep.db").is_file()
    if name is not None and not stopped:
        refuse_taken(runs, name)
    loaded = load_spaces(spaces, overrides, setting)
    if dry_run:
        from samtune.views.plan import plan, plan_text

        planned = [plan(space) for space in loaded]
        text = "\n\n".join(plan_text(space) for space in planned)
        click.echo(json.dumps({"schema": "plan/1", "spaces": planned}) if as_json else text)
        return
    asked = {"confirm": confirmed, "top": top, "seeds": seeds}
    if name is not None and stopped:
        with Record.open(runs, name) as record:
            if [study.sha256 for study in record.studies()] != [s.sha256 for s in loaded]:
                refuse_taken(runs, name)
            with record.lock(), room(record), copied(record, launch.storage):
                _same_versions(record, accepted=False)
                _imported(loaded)
                record.set_meta("asked", asked)
                if not _go_on(record, launch, as_json):
                    refuse_taken(runs, name)
        return
    own_code = _imported(loaded)
    _find_data(loaded, launch.address)
    from samtune.record.provenance import code_hashes
    from samtune.search.proposals import Proposals
    from samtune.sweep.stages import searched
    from samtune.views.replay import rule_text

    record = Record.create(
        runs,
        name,
        [
            {
                "name": space.name,
                "variant": space.variant,
                "base": space.base,
                "space": space.text,
                "sha256": space.sha256,
                "settings": json.dumps(
                    {
                        "search_alg": space.search.method,
                        "scheduler": rule_text(space.asha.model_dump()),
                        "mode": space.search.mode,
                        "trials": Proposals(space).total,
                        "searched": sorted(searched(space)),
                    }
                ),
            }
            for space in loaded
        ],
        asked,
        code_hashes(space.trainable for space in loaded),
    )
    with (
        record,
        record.lock(),
        record.removed_if_empty(),
        room(record),
        copied(record, launch.storage, new=True),
    ):
        stages = ["search", "confirm"] if confirmed else ["search"]
        code = run_stages(record, loaded, stages, top, seeds, launch, own_code)
        finish(record, code, as_json)


@click.command()
@click.argument("name")
@click.option(
    "--accept-version-change",
    "accepted",
    is_flag=True,
    help="Go on although samtune, torch, ray or optuna is not the version that began the run, or "
    "the trainable's code has changed since.",
)
@runs_option
@launch_options
@json_option
def resume(name: str, accepted: bool, runs: Path, launch: Launch, as_json: bool) -> None:
    """Continue a run that was stopped or killed.

    Interrupted trials continue from their last checkpoints. The spaces are the frozen copies in
    the run's folder.
    """
    from samtune.record.folder import check_name
    from samtune.record.record import Record
    from samtune.record.storage import copied, fetched
    from samtune.sweep import observers as integrations

    integrations.check(launch.logs, launch.hook)
    if launch.storage and not (runs / check_name(name) / "sweep.db").is_file():
        fetched(runs, name, launch.storage)
    with (
        Record.open(runs, name) as record,
        record.lock(),
        room(record),
        copied(record, launch.storage),
    ):
        _same_versions(record, accepted)
        if not _go_on(record, launch, as_json):
            click.echo(f"nothing is left to do in {name}", err=True)
            finish(record, 0, as_json)


@click.command()
@click.argument("name")
@top_option
@seeds_option
@runs_option
@launch_options
@json_option
def confirm(
    name: str,
    top: int | None,
    seeds: int | None,
    runs: Path,
    launch: Launch,
    as_json: bool,
) -> None:
    """Repeat a run's best configurations on fresh seeds.

    Each repeat opens the test split once.

    Repeats that the run already has are kept, so `--seeds 10` after 5 adds 5.
    """
    from samtune.record.record import Record
    from samtune.record.storage import copied
    from samtune.sweep import observers as integrations

    integrations.check(launch.logs, launch.hook)
    with (
        Record.open(runs, name) as record,
        record.lock(),
        room(record),
        copied(record, launch.storage),
    ):
        spaces = _frozen(record)
        own_code = _imported(spaces)
        _find_data(spaces, launch.address)
        record.set_meta("asked", {"confirm": True, "top": top, "seeds": seeds})
        code = run_stages(record, spaces, ["confirm"], top, seeds, launch, own_code)
        finish(record, code, as_json)


def _frozen(record: Record) -> list[SearchSpace]:
    """The spaces as the run was begun with, whatever their files say now."""
    from samtune.space.search_space import SearchSpace

    return [
        SearchSpace.from_text(study.space, study.name, f"{record.name}/{study.name}")
        for study in record.studies()
    ]


def _same_versions(record: Record, accepted: bool) -> None:
    """Raises RunError (exit code 2) for a run begun by other versions or code, unless accepted."""
    from samtune.record.folder import RunError
    from samtune.record.provenance import code_hashes, versions

    began, now = record.meta("versions") or {}, versions()
    if accepted or not _changed(began, now):
        # Other versions may not be able to read the spaces.
        now |= code_hashes(space.trainable for space in _frozen(record))
    changed = _changed(began, now)
    if not changed:
        return
    if not accepted:
        raise RunError(
            f"{record.name} was begun with other versions or code: {changed}; its later trials "
            f"may not compare with its earlier ones: `samtune resume {record.name} "
            "--accept-version-change` goes on all the same",
            exit_code=2,
        )
    _imported(_frozen(record))
    record.add_event("version change accepted", changed)
    record.set_meta("versions", now)


def _changed(began: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What was another version, or has another SHA-256, of which the beginning will do."""
    return ", ".join(
        f"{name} was {began[name][:_SHOWN]} and is {now[name][:_SHOWN]}"
        for name in sorted(began.keys() & now.keys())
        if began[name] != now[name]
    )


def _go_on(record: Record, launch: Launch, as_json: bool) -> bool:
    """Runs what a run has left to do, and exits; False when there is nothing."""
    spaces = _frozen(record)
    own_code = _imported(spaces)
    from samtune.sweep.stages import Confirm, Search, has_work

    asked = record.meta("asked") or {"confirm": True, "top": None, "seeds": None}
    stages = []
    if has_work(Search(record, spaces)):
        stages.append("search")
    if asked["confirm"] and (
        stages or has_work(Confirm(record, spaces, asked["top"], asked["seeds"]))
    ):
        stages.append("confirm")
    if not stages:
        return False
    _find_data(spaces, launch.address)
    record.add_event("resumed", f"{' and '.join(stages)} to do")
    code = run_stages(record, spaces, stages, asked["top"], asked["seeds"], launch, own_code)
    finish(record, code, as_json)
    return True


def _imported(spaces: Sequence[SearchSpace]) -> list[str]:
    """Import all that the spaces name, and return the references of the user's own code.

    A frozen space was checked when its run began; its code may be gone since.

    Raises:
        SpaceError: something cannot be imported here, so it cannot be in a worker either.
    """
    from samtune.space.trainable import imported

    found = [imported(space.trainable, space.base, space.task) for space in spaces]
    return [reference for references in found for reference in references]


def _find_data(spaces: Sequence[SearchSpace], address: str | None) -> None:
    """Let each trainable look for its data before Ray starts: one error instead of one per trial.

    The machines of another cluster have data of their own.
    """
    from samtune.space.search_space import resolve

    for space in spaces:
        ready = getattr(resolve(space.trainable), "make_ready", None)
        if ready is not None and address is None:
            ready(space.task)
