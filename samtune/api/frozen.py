"""The spaces of a run as they were frozen, and the versions and code that it was begun with."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

import yaml

from samtune.api.readiness import imported_by
from samtune.record.folder import RunError
from samtune.record.provenance import code_hashes, versions
from samtune.record.record import Record
from samtune.record.rows import StudyRow, canonical
from samtune.space.by_value import is_by_value, kept
from samtune.space.errors import SpaceError
from samtune.space.knobs import Range
from samtune.space.search_space import SearchSpace
from samtune.sweep.stages import searched
from samtune.views.rules import rule_text

# Characters shown of a version or a SHA-256.
_SHOWN = 24


def study_row(space: SearchSpace, trials: int) -> dict[str, str]:
    """Return a space in the form that the record stores."""
    settings = {
        "search_alg": space.search.method,
        "scheduler": rule_text(space.asha.model_dump()),
        "mode": space.search.mode,
        "aims": dict(space.search.aims.metrics),
        "constraints": dict(space.search.aims.limits),
        "margin": None if space.confirm.margin == "auto" else space.confirm.margin,
        "trials": trials,
        "row": space.row,
        "search": space.member.search,
        "with_search": space.select.with_search,
        "baseline": space.member.baseline,
        "searched": sorted(searched(space)),
        "ranges": {
            name: (domain.low, domain.high, domain.scale)
            for name, domain in space.knobs.items()
            if isinstance(domain, Range)
        },
    }
    return {
        "name": space.name,
        "variant": space.variant,
        "base": space.base,
        "space": space.text,
        "sha256": space.sha256,
        "settings": json.dumps(settings),
    }


def frozen_spaces(record: Record) -> list[SearchSpace]:
    """Return the spaces that the run was started with, even if their files have changed.

    Raises:
        RunError: The trainable of one was sent by value, and is not in this process (exit code 2).
    """
    spaces = [
        SearchSpace.from_text(study.space, study.name, f"{record.name}/{study.name}")
        for study in record.studies()
    ]
    for space in spaces:
        if is_by_value(space.trainable) and not _is_here(space.trainable):
            raise RunError(
                f"the trainable {space.trainable.partition(':')[2]!r} of {space.name} was defined "
                "in a notebook or a script, and is kept nowhere else: continue the run from "
                f"there, with `samtune.load({str(record.folder)!r}).resume()`",
                exit_code=2,
            )
    return spaces


def content(space: SearchSpace) -> str:
    """Return the content of a space in one form that does not depend on the order of its words."""
    return canonical(yaml.safe_load(space.text))


def content_now(study: StudyRow) -> str:
    """Return the content of a frozen space, with the words that samtune has gained since."""
    try:
        space = SearchSpace.from_text(study.space, study.name, study.name, frozen=False)
    except SpaceError:
        # The given spaces were read without a mistake, so this one is not among them.
        return ""
    return content(space)


def code_of(spaces: Sequence[SearchSpace]) -> dict[str, str]:
    """Return digests of the code that the trials of spaces, and their proposals, depend on."""
    return code_hashes(
        (space.trainable for space in spaces), (space.search.method for space in spaces)
    )


def check_versions(record: Record, accepted: bool) -> None:
    """Refuse a run that was started by other versions or code, unless that is accepted.

    Raises:
        RunError: Versions or code differ, and that is not accepted (exit code 2).
    """
    began, now = record.meta("versions") or {}, versions()
    if accepted or not _changed(began, now):
        # Other versions may not be able to read the spaces.
        now |= code_of(frozen_spaces(record))
    changed = _changed(began, now)
    if not changed:
        return
    if not accepted:
        raise RunError(
            f"{record.name} was begun with other versions or code: {changed}; its later trials "
            f"may not compare with its earlier ones: `samtune resume {record.name} "
            "--accept-version-change` continues all the same",
            exit_code=2,
        )
    imported_by(frozen_spaces(record))
    record.add_event("version change accepted", changed)
    record.set_meta("versions", now)


def _changed(began: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return a text of the packages and files that changed, with their versions or SHA-256."""
    return ", ".join(
        f"{name} was {began[name][:_SHOWN]} and is {now[name][:_SHOWN]}"
        for name in sorted(began.keys() & now.keys())
        if began[name] != now[name]
    )


def _is_here(reference: str) -> bool:
    """Return whether this process has a trainable that no other process can import."""
    module, _, name = reference.partition(":")
    return kept(reference) is not None or callable(getattr(sys.modules[module], name, None))
