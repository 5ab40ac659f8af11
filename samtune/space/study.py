"""Study files: several spaces, each searched several times, on one or several tasks and budgets.

A study is expanded into its members. Each is an ordinary space that knows its place in the study
(`member`), so a run of a study is stopped, resumed and recorded like any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from samtune.messages import nearest, quoted
from samtune.space.errors import SpaceError, faults, space_error
from samtune.space.files import read, shipped_studies
from samtune.space.knobs import Value
from samtune.space.schema import SECTIONS
from samtune.space.search_space import SearchSpace
from samtune.space.strict_yaml import Mark, Node, Problem, load
from samtune.space.word_types import Count, Named, Positive

_ALLOWED = {"samtune", "study", "task", *SECTIONS} - {"member"}
_SET = "study."


class StudySettings(BaseModel):
    """The section `study` of a study file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    spaces: list[str] = Field(min_length=1, description="Shipped spaces, or files beside this.")
    tasks: dict[str, Named] = Field(
        default={}, description="Words of the task, by the name of each task; none: one task."
    )
    budgets: list[Positive] = Field(
        default=[], description="Values of budget.per_trial; none: that of the spaces."
    )
    searches: Count = Field(
        default=1, description="Independent searches per row, with their own seeds and splits."
    )
    defaults: bool = Field(
        default=False, description="Also a row per space with its defaults, not searched."
    )
    doubled: list[str] = Field(
        default=[], description="Spaces that also have a row at twice the budget per trial."
    )
    baseline: str = Field(default="sgd", description="The row that the others are compared with.")
    race: bool = Field(
        default=False, description="Leave out of later searches the rows that cannot be best."
    )
    keep: Count = Field(default=3, description="A row stays in the race that may be among these.")


def is_study(reference: object) -> bool:
    """Return whether a reference names a study file, shipped or one's own."""
    if not isinstance(reference, str | Path):
        return False
    path = _path(reference)
    if not path.is_file():
        return False
    try:
        root = load(path.read_bytes(), path.name)
    except Exception:
        # What is wrong with it is said where it is read as a space.
        return False
    return isinstance(root.value, dict) and "study" in root.value


def members(
    reference: str | Path,
    overrides: Sequence[str] = (),
    on: str | Path | SearchSpace | None = None,
) -> list[SearchSpace]:
    """Return the members of a study, the first searches of all rows before the second ones.

    Args:
        reference: The study file, or the name of a shipped one such as `studies/digits`.
        overrides: `path=value` each. `study.searches=3` changes the study, others every member.
        on: A space whose task, budget and other sections replace those of the members.

    Raises:
        SpaceError: Something in the study or in a space is wrong; every mistake is named.
    """
    path = _path(reference)
    root = read(path)
    own = [text for text in overrides if text.startswith(_SET)]
    others = [text for text in overrides if not text.startswith(_SET)]
    settings = _settings(root, own)
    shared = Node(
        {word: node for word, node in _entries(root).items() if word in {"task", *SECTIONS}},
        root.mark,
        root.key,
    )
    budgets: Sequence[float | None] = settings.budgets or [None]
    found: list[SearchSpace] = []
    messages: list[str] = []
    for task, words in (settings.tasks or {"": {}}).items():
        for per_trial in budgets:
            place = _Place(path, settings, task, _several(task, per_trial, settings))
            layers = [shared, _layer(words, per_trial)]
            for space in settings.spaces:
                try:
                    found += place.rows(space, layers, others, on)
                except SpaceError as error:
                    messages += error.messages
    if messages:
        raise SpaceError(list(dict.fromkeys(messages)))
    return sorted(found, key=lambda space: space.member.search)


class _Place:
    """One task and budget of a study, whose spaces become rows.

    Args:
        path: The study file.
        settings: The section `study`.
        task: The name of the task; empty where there is one.
        prefix: What the names of the members begin with.
    """

    def __init__(self, path: Path, settings: StudySettings, task: str, prefix: str) -> None:
        self.path = path
        self.settings = settings
        self.task = task
        self.prefix = prefix

    def rows(
        self,
        reference: str,
        layers: Sequence[Node],
        overrides: Sequence[str],
        on: str | Path | SearchSpace | None,
    ) -> list[SearchSpace]:
        """Return the members of a space: its searches, its default and its doubled budget."""
        beside = (self.path.parent / name for name in (reference, f"{reference}.yaml"))
        own = next((path for path in beside if path.is_file()), reference)
        base = SearchSpace.layered(own, layers, overrides, on)
        found = self._searches(base, base.name, [])
        if self.settings.defaults:
            words = ["budget.trials=1", "search.first=[default]"]
            found += self._searches(base, f"{base.name}-default", words)
        if base.name in self.settings.doubled:
            twice = 2 * base.budget.per_trial
            grace = 2 * base.asha.grace_of(base.budget.per_trial)
            words = [f"budget.per_trial={twice}", f"asha.grace={grace}"]
            words += [] if base.asha.until is None else [f"asha.until={2 * base.asha.until}"]
            found += self._searches(base, f"{base.name}-2x", words)
        return found

    def _searches(
        self, base: SearchSpace, row: str, overrides: Sequence[str]
    ) -> list[SearchSpace]:
        settings = self.settings
        words: dict[str, Any] = {
            **{"study": self.path.stem, "row": row, "task": self.task},
            **{"baseline": settings.baseline, "keep": settings.keep if settings.race else 0},
        }
        found = []
        for search in range(settings.searches):
            name = f"{self.prefix}{row}" + (f".{search}" if search else "")
            seeds = [
                f"search.seed={base.search.seed + search}",
                f"task.split_seed={int(base.task['split_seed']) + search}",
            ]
            member = [f"member.{word}={json.dumps(value)}" for word, value in words.items()]
            member.append(f"member.search={search}")
            found.append(
                SearchSpace.from_text(base.text, name, name, [*overrides, *seeds, *member])
            )
        return found


def _settings(root: Node, overrides: Sequence[str]) -> StudySettings:
    """Return the section `study`, with values on top of it."""
    problems: list[Problem] = [
        (node.key, f"a study has no word {quoted(word)}; {nearest(word, sorted(_ALLOWED))}")
        for word, node in _entries(root).items()
        if word not in _ALLOWED
    ]
    entries = dict(_entries(_entries(root)["study"]))
    for text in overrides:
        path, _, value = text.partition("=")
        mark = Mark(f"--set {text}")
        node = load(value.encode(), "")
        entries[path.removeprefix(_SET)] = Node(node.value, mark, mark)
    study = Node(entries, root.at("study").mark, root.at("study").key)
    try:
        settings = StudySettings.model_validate(study.plain())
    except ValidationError as error:
        raise space_error([*problems, *faults(study, error, StudySettings)]) from None
    known = [Path(space).stem for space in settings.spaces]
    problems += [
        (
            study.at("doubled").mark,
            f"study.doubled: no space {quoted(name)}; {nearest(name, known)}",
        )
        for name in settings.doubled
        if name not in known
    ]
    if settings.baseline not in known:
        hint = nearest(settings.baseline, known)
        problems.append((study.at("baseline").mark, f"study.baseline: no such space; {hint}"))
    if problems:
        raise space_error(problems)
    return settings


def _several(task: str, per_trial: float | None, settings: StudySettings) -> str:
    """Return what the names of members begin with: the task and the budget, if there are more."""
    parts = [task] if len(settings.tasks) > 1 else []
    parts += [f"{per_trial:g}"] if len(settings.budgets) > 1 else []
    return "".join(f"{part}." for part in parts)


def _layer(task: Mapping[str, Value], per_trial: float | None) -> Node:
    """Return the words of one task and budget as a tree."""
    words: dict[str, Any] = {"task": dict(task)} if task else {}
    if per_trial is not None:
        words["budget"] = {"per_trial": per_trial}
    return load(json.dumps(words).encode(), "study")


def _path(reference: str | Path) -> Path:
    """Return the file that a reference names: a path, or a shipped study."""
    path = Path(reference)
    if path.is_file():
        return path
    parts = path.with_suffix("").parts
    if parts[-2:-1] == ("studies",) and path.suffix in {"", ".yaml", ".yml"}:
        return shipped_studies().get(parts[-1], path)
    return path


def _entries(node: Node) -> dict[str, Node]:
    return node.value if isinstance(node.value, dict) else {}
