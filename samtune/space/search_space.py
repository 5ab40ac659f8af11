"""Spaces: what to train, which knobs to search, and with what budget.

A space is read from YAML, or made in Python, and is checked as a whole: its words by `schema`, its
knobs and task by the trainable that it names. The result is a SearchSpace, or one error with every
mistake.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samtune.space.conditions import Conditions
from samtune.space.declaration import ask_trainable, declaration, read_task
from samtune.space.errors import SpaceError, read_document, space_error
from samtune.space.files import (
    compose,
    find,
    merge,
    on_setting,
    parse,
    read,
    shipped,
    without_shipped_noise,
)
from samtune.space.frozen import dump
from samtune.space.knob_reader import KnobReader
from samtune.space.knob_section import KnobSection
from samtune.space.knobs import (
    Choice,
    Domain,
    Fixed,
    Grid,
    Range,
    Value,
    active,
    default_of,
    written,
)
from samtune.space.origin import origins
from samtune.space.overrides import override
from samtune.space.schema import (
    SECTIONS,
    AshaSettings,
    BudgetSettings,
    ConfirmSettings,
    Document,
    MemberSettings,
    ResourceSettings,
    SelectSettings,
    space_schema,
)
from samtune.space.search_words import SearchSettings
from samtune.space.sections import Sections
from samtune.space.strict_yaml import Node, Problem, StrictYamlError
from samtune.space.trainable import resolve
from samtune.trial import Budget

__all__ = [
    "Choice",
    "Domain",
    "Fixed",
    "Grid",
    "Range",
    "SearchSpace",
    "SpaceError",
    "resolve",
    "shipped",
    "space_schema",
]


@dataclass(frozen=True)
class SearchSpace:
    """A space with every value resolved. Treat its dicts as frozen.

    Attributes:
        name: The name of its file, without suffix.
        points: Tied knobs, which are not in `knobs`: dicts of the same names.
        text: The whole space as one YAML text.
        sha256: The SHA-256 of the text in UTF-8.
        from_shipped: Whether a shipped space was named by its name.
        origin: Where each value is from, by dotted path: `file:line`, `--set`, `default of asam`.
    """

    name: str
    variant: str
    trainable: str
    base: str
    knobs: dict[str, Domain]
    points: tuple[dict[str, Value], ...]
    task: dict[str, Value]
    budget: BudgetSettings
    search: SearchSettings
    asha: AshaSettings
    select: SelectSettings
    resources: ResourceSettings
    confirm: ConfirmSettings
    member: MemberSettings
    text: str
    sha256: str
    path: Path | None = field(compare=False, default=None)
    from_shipped: bool = field(compare=False, default=False)
    warnings: list[str] = field(compare=False, default_factory=list)
    origin: dict[str, str] = field(compare=False, default_factory=dict)

    @classmethod
    def load(
        cls,
        reference: str | Path,
        overrides: Sequence[str] = (),
        on: str | Path | SearchSpace | None = None,
    ) -> SearchSpace:
        """Read a space, and check it against its trainable, which is imported.

        Args:
            reference: A space file, or the name of a shipped space.
            overrides: `path=value` each, applied on top in order.
            on: A space whose task, budget and other sections replace those of this one.

        Raises:
            SpaceError: Something in it is wrong; every mistake is named.
        """
        found = find(reference)
        root = read(found.path)
        if on is not None:
            root = on_setting(root, _tree(on))
        root, problems = override(root, overrides)
        root = without_shipped_noise(root)
        space = _built(root, problems, found.name, frozen=False)
        # The dataclass is frozen for users. This code has not returned it, and may change it.
        object.__setattr__(space, "path", found.path)
        object.__setattr__(space, "from_shipped", found.from_shipped)
        return space

    @classmethod
    def layered(
        cls,
        reference: str | Path,
        layers: Sequence[Node],
        overrides: Sequence[str] = (),
        on: str | Path | SearchSpace | None = None,
    ) -> SearchSpace:
        """Read a space with trees on top of it, and check it against its trainable.

        Args:
            reference: A space file, or the name of a shipped space.
            layers: Trees of words, each merged onto what is below.
            overrides: `path=value` each, applied on top in order.
            on: A space whose task, budget and other sections come between the two.

        Raises:
            SpaceError: Something in it is wrong; every mistake is named.
        """
        found = find(reference)
        root = read(found.path)
        for layer in layers:
            root = merge(root, layer)
        if on is not None:
            root = on_setting(root, _tree(on))
        root, problems = override(root, overrides)
        return _built(without_shipped_noise(root), problems, found.name, frozen=False)

    @classmethod
    def from_document(
        cls,
        document: Mapping[str, Any],
        name: str,
        overrides: Sequence[str] = (),
        on: str | Path | SearchSpace | None = None,
    ) -> SearchSpace:
        """Check a space that was made in Python, with the words that a space file has.

        Raises:
            SpaceError: Something in it is wrong; every mistake is named.
        """
        root = compose(dump({"samtune": 1, **document}), name)
        if on is not None:
            root = on_setting(root, _tree(on))
        root, problems = override(root, overrides)
        root = without_shipped_noise(root)
        return _built(root, problems, name, frozen=False)

    @classmethod
    def from_text(
        cls,
        text: str,
        name: str,
        source_name: str,
        overrides: Sequence[str] = (),
        *,
        frozen: bool = True,
    ) -> SearchSpace:
        """Return the space of a frozen `text`, without importing its trainable.

        Args:
            text: The text of a space with every value resolved.
            name: The name of the space.
            source_name: What places in the text are named after.
            overrides: `path=value` each, applied on top in order.
            frozen: False checks it against its trainable as any space, which gives words that are
                newer than the text their defaults.

        Raises:
            SpaceError: The text was damaged, or an override is wrong.
        """
        try:
            root = parse(text.encode(), source_name)
        except StrictYamlError as error:
            raise space_error(error.problems) from None
        root, problems = override(root, overrides)
        return _built(root, problems, name, frozen=frozen)

    @property
    def row(self) -> str:
        """The name of its row in the leaderboard, which the searches of a study share."""
        return self.member.row or self.name

    @property
    def trial_budget(self) -> Budget:
        """The budget of one trial."""
        return Budget(self.budget.kind, self.budget.per_trial)

    @property
    def trial_task(self) -> dict[str, Value]:
        """The task of one trial. Its split is drawn by the trial's seeds."""
        return {word: value for word, value in self.task.items() if word != "split_seed"}

    def default(self) -> dict[str, Value]:
        """Return the default of every active knob, and the first of the tied points."""
        values = {name: default_of(domain) for name, domain in self.knobs.items()}
        return self.active({**values, **(self.points[0] if self.points else {})})

    def active(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return `values` without the knobs whose `when` is false."""
        return active(self.knobs, values)


def _tree(setting: str | Path | SearchSpace) -> Node:
    """Return the tree of a space that others take their setting from."""
    if isinstance(setting, SearchSpace):
        return parse(setting.text.encode(), setting.name)
    return read(find(setting).path)


def _built(root: Node, problems: list[Problem], name: str, *, frozen: bool) -> SearchSpace:
    """Check a merged tree against its trainable, and build the space.

    A frozen space is complete and was checked before, so its trainable is not imported.
    """
    document, found, broken = read_document(root)
    if frozen and isinstance(root.value, dict) and "select" not in root.value:
        # The run began before there was such a stage.
        document = document.model_copy(update={"select": SelectSettings(top=1)})
    problems = problems + found
    declared = None if frozen else declaration(root, document, broken, problems)
    reader = KnobReader(declared)
    reader.problems += problems
    section = KnobSection(reader, root, document)
    points = section.points()
    knobs = section.knobs(points)
    if ("points",) not in broken:
        Conditions(reader, knobs, points, section.nodes, section.faulty).check()
    task = read_task(reader, root, document)
    metrics = declared.metrics_of(task) if declared else None
    Sections(reader, root, document, broken, metrics).check(knobs, points, section.faulty)
    if declared and not reader.problems:
        ask_trainable(reader, root, document, knobs, points, task)
    if reader.problems:
        raise space_error(reader.problems)
    return _assembled(root, document, reader, knobs, points, task, name)


def _assembled(
    root: Node,
    document: Document,
    reader: KnobReader,
    knobs: dict[str, Domain],
    points: tuple[dict[str, Value], ...],
    task: dict[str, Value],
    name: str,
) -> SearchSpace:
    declared = reader.declared
    grace = document.asha.grace_of(document.budget.per_trial)
    asha = document.asha.model_copy(update={"grace": grace})
    document = document.model_copy(update={"asha": asha})
    resolved: dict[str, Any] = {
        "samtune": 1,
        "trainable": declared.reference if declared else document.trainable or "",
        "variant": declared.variant if declared else document.variant or "",
        "base": declared.base if declared else document.base or "none",
        "knobs": {name: written(domain) for name, domain in knobs.items()},
        **({"points": [dict(point) for point in points]} if points else {}),
        "task": task,
        **{word: getattr(document, word).model_dump(exclude_none=True) for word in SECTIONS},
    }
    if document.member == MemberSettings():
        del resolved["member"]
    text = dump(resolved)
    return SearchSpace(
        name=name,
        variant=resolved["variant"],
        trainable=resolved["trainable"],
        base=resolved["base"],
        knobs=knobs,
        points=points,
        task=task,
        **{word: getattr(document, word) for word in SECTIONS},
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        warnings=[f"{mark}: {text}" for mark, text in sorted(set(reader.warnings))],
        origin=origins(root, resolved, document, declared),
    )
