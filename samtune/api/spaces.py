"""Spaces from files, from shipped names and from Python, checked together."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from samtune.space.by_value import reference_to
from samtune.space.errors import SpaceError
from samtune.space.search_space import SearchSpace
from samtune.space.study import is_study, members

Trainable = str | Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Space:
    """A search space made in Python, with the words of a space file.

    Attributes:
        trainable: A function that takes a `TrialConfig`, or a name such as `asam` or
            `my_package.my_module:my_trainable`.
        knobs: Each a value, or a map such as `{"min": 0.0, "max": 1.0}`, `{"choice": [1, 2]}` or
            `{"grid": [1, 2]}`.
        name: Name in tables; without it, the trainable's own name.
        metric: What a trial reports and the search improves; without it, `val_acc`.
        mode: Whether more of the metric is better (`max`), or less (`min`).
        base: Base optimizer, where the trainable offers several.
        extends: Name of a shipped space, or of a space file, that this one adds to.
        points: Tied knobs; each trial takes one of these maps as a whole.
        task: Data set, model and what else a trial needs.
        budget: `kind`, `per_trial` and `trials`.
        search: `method`, `seed` and `first`.
        asha: `mode`, `grace`, `factor`, `tolerance` and `audit`.
        resources: `cpus`, `gpus`, `workers`, `parallel` and others.
        select: `top` and `seeds`.
        confirm: `top` and `seeds`.
    """

    trainable: Trainable
    knobs: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    metric: str | None = None
    mode: Literal["max", "min"] | None = None
    base: str | None = None
    extends: str | None = None
    points: Sequence[Mapping[str, Any]] | None = None
    task: Mapping[str, Any] = field(default_factory=dict)
    budget: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    asha: Mapping[str, Any] = field(default_factory=dict)
    select: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)
    confirm: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the words of a space file, without those that were not given."""
        words = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        own = {word: words.pop(word) for word in ("name", "metric", "mode")}
        search = {word: own[word] for word in ("metric", "mode") if own[word] is not None}
        words["search"] = {**search, **words["search"]}
        return {word: value for word, value in words.items() if value not in (None, {})}


Reference = str | Path | Mapping[str, Any] | Space


def resolved(
    references: Sequence[Reference],
    overrides: Mapping[str, Any] | Sequence[str] = (),
    on: str | Path | SearchSpace | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[SearchSpace]:
    """Return the spaces with everything resolved, ready to be run together.

    Args:
        references: Files, names of shipped spaces, maps with the words of a space file, or Space.
        overrides: Values on top of each space, as a map or as `path=value` texts.
        on: The space that the task, budget, search, rungs and resources are taken from.
        tell: Called with each warning.

    Raises:
        SpaceError: Something is wrong in a space, or the spaces cannot share a run; every mistake
            in any of them is named.
    """
    texts = as_texts(overrides)
    spaces: list[SearchSpace] = []
    messages: list[str] = []
    for reference in references:
        try:
            found = _spaces(reference, texts, on)
        except SpaceError as error:
            where = f"{_shown(reference)}: " if len(references) > 1 else ""
            messages += [f"{where}{message}" for message in error.messages]
            continue
        for space in found:
            if space.from_shipped:
                tell(f"using the shipped space {space.path}")
            for warning in space.warnings:
                tell(f"warning: {warning}")
        spaces += found
    messages += disagreements(spaces)
    if messages:
        raise SpaceError(messages)
    return spaces


def as_texts(overrides: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Return values to set as `path=value` texts."""
    if isinstance(overrides, Mapping):
        return [f"{path}={json.dumps(value)}" for path, value in overrides.items()]
    return [*overrides]


def _spaces(
    reference: Reference, overrides: Sequence[str], on: str | Path | SearchSpace | None
) -> list[SearchSpace]:
    if isinstance(reference, str | Path) and is_study(reference):
        return members(reference, overrides, on)
    return [_space(reference, overrides, on)]


def _space(
    reference: Reference, overrides: Sequence[str], on: str | Path | SearchSpace | None
) -> SearchSpace:
    if isinstance(reference, Space):
        document, name = reference.document(), reference.name
    elif isinstance(reference, Mapping):
        document, name = dict(reference), None
        document.pop("samtune", None)
    else:
        return SearchSpace.load(reference, overrides, on)
    if callable(trainable := document.get("trainable")):
        document["trainable"] = reference_to(trainable)
    name = name or _name_of(document.get("trainable", "space"))
    return SearchSpace.from_document(document, name, overrides, on)


def _name_of(trainable: object) -> str:
    """Return a name for a space, from the name of its trainable."""
    word = str(trainable).rpartition(":")[2]
    return re.sub(r"[^a-z0-9._-]", "_", word.lower()).lstrip("._-")[:64] or "space"


def _shown(reference: Reference) -> str:
    if isinstance(reference, Space | Mapping):
        return "a space made in Python"
    return str(reference)


def _flow(value: object) -> str:
    """Return a map as YAML on one line."""
    return json.dumps(value).replace('"', "")


def disagreements(spaces: Sequence[SearchSpace]) -> list[str]:
    """Return a sentence for each setting that the spaces of one run must share but do not."""
    names = [space.name for space in spaces]
    messages = [
        f"two spaces are called {name!r}; rename one of the files"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    wanted: list[tuple[str, set[str]]] = [
        ("budget.kind", {space.budget.kind for space in spaces}),
        ("confirm.seeds", {str(space.confirm.seeds) for space in spaces}),
        ("search.constraints", {_flow(space.search.constraints) for space in spaces}),
    ]
    if any(space.search.metrics for space in spaces):
        aims = {_flow(dict(space.search.aims.metrics)) for space in spaces}
        wanted.append(("search.metrics", aims))
    else:
        wanted.append(("search.metric", {space.search.metric for space in spaces}))
        wanted.append(("search.mode", {space.search.mode for space in spaces}))
    if not any(space.member.study for space in spaces):
        wanted.append(("budget.per_trial", {f"{space.budget.per_trial:g}" for space in spaces}))
        wanted += [
            (f"task.{word}", {str(space.task.get(word)) for space in spaces})
            for word in sorted({word for space in spaces for word in space.task})
        ]
    return messages + [
        f"spaces of one run must agree on {word}, and these say {' and '.join(sorted(found))}; "
        f"set one with --set {word}=..."
        for word, found in wanted
        if len(found) > 1
    ]


def each_of(spaces: Sequence[Reference | Sequence[Reference]]) -> Iterator[Reference]:
    """Yield the spaces, and those of each list among them."""
    for given in spaces:
        if isinstance(given, str | Path | Mapping | Space):
            yield given
        else:
            yield from given
