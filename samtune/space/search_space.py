"""Space files: from YAML to a SearchSpace, or to every mistake in it at once.

A space says what to train, which knobs to search and with what budget. The words it may use are in
`space_document`, the knobs in the trainable it names.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samtune.errors import SamtuneError
from samtune.messages import nearest, quoted
from samtune.space.conditions import Conditions
from samtune.space.errors import SpaceError, read_document, space_error
from samtune.space.files import (
    compose,
    find,
    on_setting,
    override,
    parse,
    read,
    shipped,
    without_shipped_noise,
)
from samtune.space.frozen import dump
from samtune.space.knob_reader import KnobReader
from samtune.space.knobs import (
    Choice,
    Domain,
    Fixed,
    Grid,
    Range,
    Value,
    active,
    default_of,
    same,
    written,
)
from samtune.space.origin import origins
from samtune.space.schema import (
    NAME,
    SECTIONS,
    AshaSettings,
    BudgetSettings,
    ConfirmSettings,
    Document,
    RangeShape,
    ResourceSettings,
    SearchSettings,
    not_a_number,
    space_schema,
)
from samtune.space.sections import Sections
from samtune.space.strict_yaml import Node, Problem, StrictYamlError
from samtune.space.trainable import Declared, resolve
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
    """A space with everything resolved. Treat its dicts as frozen.

    `points` holds tied knobs, a dict of the same names each; they are not in `knobs`. `origin`
    says of each dotted path where its value is from: `file:line`, `--set`, `default of asam`.
    `text` is the whole space as one YAML file, and `sha256` that of its UTF-8 bytes.
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
    resources: ResourceSettings
    confirm: ConfirmSettings
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
        on: str | Path | None = None,
    ) -> SearchSpace:
        """Reads a space file, or a shipped space by name, with `path=value` overrides on top.

        All but its trainable, base and knobs comes from the space `on`, if one is named. The
        trainable is imported and asked for its knobs. Raises SpaceError with every mistake.
        """
        found = find(reference)
        root = read(found.path)
        if on is not None:
            root = on_setting(root, read(find(on).path))
        root, problems = override(root, overrides, _settable)
        root = without_shipped_noise(root)
        space = _Builder(root, problems, frozen=False).space(found.name)
        # The dataclass is frozen for its users; here it is not yet handed out.
        object.__setattr__(space, "path", found.path)
        object.__setattr__(space, "from_shipped", found.from_shipped)
        return space

    @classmethod
    def from_document(
        cls,
        document: Mapping[str, Any],
        name: str,
        overrides: Sequence[str] = (),
        on: str | Path | None = None,
    ) -> SearchSpace:
        """Check a space that was made in Python, with the words that a space file has.

        Raises:
            SpaceError: Something in it is wrong; every mistake is named.
        """
        root = compose(dump({"samtune": 1, **document}), name)
        if on is not None:
            root = on_setting(root, read(find(on).path))
        root, problems = override(root, overrides, _settable)
        root = without_shipped_noise(root)
        return _Builder(root, problems, frozen=False).space(name)

    @classmethod
    def from_text(cls, text: str, name: str, source_name: str) -> SearchSpace:
        """The space from its frozen `text`, without importing its trainable.

        Raises SpaceError naming `source_name`.
        """
        try:
            root = parse(text.encode(), source_name)
        except StrictYamlError as error:
            raise space_error(error.problems) from None
        return _Builder(root, [], frozen=True).space(name)

    @property
    def trial_budget(self) -> Budget:
        """What one trial may use."""
        return Budget(self.budget.kind, self.budget.per_trial)

    def default(self) -> dict[str, Value]:
        """The default of every active knob; of tied knobs the first point."""
        values = {name: default_of(domain) for name, domain in self.knobs.items()}
        return self.active({**values, **(self.points[0] if self.points else {})})

    def active(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """`values` without the knobs whose `when` does not hold."""
        return active(self.knobs, values)


class _Builder:
    """Checks a merged tree against its trainable, and builds the space.

    A frozen space is complete and was checked when it was frozen, so its trainable is left alone.
    """

    def __init__(self, root: Node, problems: list[Problem], frozen: bool) -> None:
        self.root = root
        self.document, found, self.broken = read_document(root)
        problems = problems + found
        self.faulty: set[str] = set()
        self.declared = None if frozen else self._declared(problems)
        self.reader = KnobReader(self.declared)
        self.problems = self.reader.problems
        self.problems += problems

    def wrong(self, node: Node, message: str) -> None:
        self.problems.append((node.mark, message))

    def space(self, name: str) -> SearchSpace:
        document = self.document
        points = self._points()
        knobs = self._knobs(points)
        task = self._task()
        metrics = self.declared.metrics if self.declared else None
        sections = Sections(self.reader, self.root, document, self.broken, metrics)
        sections.check(knobs, points, self.faulty)
        declared = self.declared
        if declared and not self.problems:
            defaults = {k: default_of(domain) for k, domain in knobs.items()}
            values = active(knobs, {**defaults, **(points[0] if points else {})})
            self._ask(declared, values, task)
        if self.problems:
            raise space_error(self.problems)
        variant = declared.variant if declared else document.variant or ""
        base = declared.base if declared else document.base or "none"
        trainable = declared.reference if declared else document.trainable or ""
        resolved: dict[str, Any] = {
            "samtune": 1,
            "trainable": trainable,
            "variant": variant,
            "base": base,
            "knobs": {name: written(domain) for name, domain in knobs.items()},
            **({"points": [dict(point) for point in points]} if points else {}),
            "task": task,
            **{word: getattr(document, word).model_dump() for word in SECTIONS},
        }
        text = dump(resolved)
        return SearchSpace(
            name=name,
            variant=variant,
            trainable=trainable,
            base=base,
            knobs=knobs,
            points=points,
            task=task,
            budget=document.budget,
            search=document.search,
            asha=document.asha,
            resources=document.resources,
            confirm=document.confirm,
            text=text,
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            warnings=[f"{mark}: {text}" for mark, text in sorted(set(self.reader.warnings))],
            origin=origins(self.root, resolved, document, declared),
        )

    def _ask(
        self, declared: Declared, knobs: Mapping[str, Value], task: Mapping[str, Value]
    ) -> None:
        """Has the trainable say which of its words cannot be had together."""
        budget, trainable = self.document.budget, declared.trainable
        check, check_task, cost = (
            getattr(trainable, name, None) for name in ("check", "check_task", "see_per_epoch")
        )
        if check:
            try:
                check(knobs, declared.base)
            except (ValueError, SamtuneError) as error:
                self.wrong(self.root.at("knobs"), str(error))
                return
        if check_task and cost and budget.kind != "seconds":
            per_epoch = cost(knobs, declared.base) if budget.kind == "compute" else 1.0
            try:
                check_task(task, budget.per_trial / per_epoch)
            except (ValueError, SamtuneError) as error:
                # As every such sentence does, it begins with its word.
                self.wrong(self.root.at("task", str(error).split()[0]), f"task.{error}")

    def _declared(self, problems: list[Problem]) -> Declared | None:
        reference, base = self.document.trainable, self.document.base
        if reference is None:
            if ("trainable",) not in self.broken:
                from samtune.optimizers import VARIANTS

                message = f"'trainable' is missing; write one of {', '.join(sorted(VARIANTS))}"
                problems.append((self.root.mark, f"{message}: `trainable: asam`"))
            return None
        try:
            declared = Declared.of(reference, base)
        except SpaceError as error:
            problems += [(self.root.at("trainable").mark, message) for message in error.messages]
            return None
        if declared.base_fault:
            problems.append((self.root.at("base").mark, declared.base_fault))
            # With the base unknown, so are its knobs: no follow-up errors about those.
            return None
        given = self.document.variant
        if given is not None and given != declared.variant:
            message = f"variant: {declared.reference} is {declared.variant!r}, not {quoted(given)}"
            problems.append((self.root.at("variant").mark, f"{message}; remove the line"))
        return declared

    def _points(self) -> tuple[dict[str, Value], ...]:
        points: list[dict[str, Value]] = []
        given = self.document.points
        if given is None:
            return ()
        nodes = self.root.at("points").value
        assert isinstance(nodes, list)
        for index, (point, node) in enumerate(zip(given, nodes, strict=True)):
            entries = node.value if isinstance(node.value, dict) else {}
            if not point or point.keys() != given[0].keys():
                wanted = ", ".join(given[0]) or "at least one knob"
                message = f"points[{index}]: every point names the same knobs: {wanted}"
                self.wrong(node, message)
                continue
            fits = {
                name: self.reader.checked(name, value, entries[name])
                for name, value in point.items()
                if self._is_knob(name, entries[name])
            }
            whole = {name: value for name, value in fits.items() if value is not None}
            if any(
                all(same(value, known[name]) for name, value in whole.items()) for known in points
            ):
                self.wrong(node, f"points[{index}]: this point is listed twice")
            points.append(whole)
        return tuple(points)

    def _is_knob(self, name: str, node: Node) -> bool:
        if not NAME.fullmatch(name):
            message = f"{quoted(name)} is no name for a knob; use letters, digits and _"
            self.problems.append((node.key, message))
            return False
        declared = self.declared
        if declared is None or declared.knobs is None or name in declared.knobs:
            return True
        self.problems.append((node.key, declared.unknown_knob(name)))
        return False

    def _knobs(self, points: tuple[dict[str, Value], ...]) -> dict[str, Domain]:
        tied = set(points[0]) if points else set()
        domains: dict[str, Domain] = {}
        nodes = self.root.at("knobs").value
        nodes = nodes if isinstance(nodes, dict) else {}
        for name, shape in self.document.knobs.items():
            node = nodes[name]
            if shape is None:
                if name not in tied:
                    message = f"{name}: null removes an inherited knob, and there is none"
                    self.wrong(node, message)
            elif name in tied:
                message = f"{name} is tied by `points`; remove it here, or write `{name}: null`"
                self.problems.append((node.key, message))
            elif self._is_knob(name, node):
                domain = self.reader.domain(name, shape, node)
                if domain is not None:
                    domains[name] = domain
        self.faulty = {name for name in nodes if name not in domains and name not in tied}
        declared = self.declared
        if declared is not None:
            for name, knob in (declared.knobs or {}).items():
                if name not in domains and name not in self.faulty and name not in tied:
                    domains[name] = Fixed(knob.default)
            if declared.knobs is None:
                message = f"{declared.reference} declares no knobs, so these are not checked"
                self.reader.warnings.append((self.root.at("trainable").mark, message))
        if ("points",) not in self.broken:
            Conditions(self.reader, domains, points, nodes, self.faulty).check()
        return domains

    def _task(self) -> dict[str, Value]:
        task: dict[str, Value] = {}
        known = self.declared.task if self.declared else None
        for name, value in self.document.task.items():
            node = self.root.at("task", name)
            if known is not None and name in known:
                fit = self.reader.fitting(known[name], value, node, f"task.{name}")
                if fit is not None:
                    task[name] = fit
            elif name == "split_seed":
                if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                    why = not_a_number(value) if isinstance(value, str | bool) else f"not {value}"
                    self.wrong(node, f"task.split_seed: a whole number of at least 0; {why}")
                task[name] = value
            elif known is not None:
                hint = nearest(name, [*known, "split_seed"])
                self.problems.append((node.key, f"task has no word {quoted(name)}; {hint}"))
            elif not NAME.fullmatch(name):
                message = f"{quoted(name)} is no name for a task word; use letters, digits and _"
                self.problems.append((node.key, message))
            else:
                task[name] = value
        for name, knob in (known or {}).items():
            task.setdefault(name, knob.default)
        task.setdefault("split_seed", 1)
        return task


def _settable(root: Node) -> list[str]:
    """The dotted paths that --set may name in this tree."""
    plain = root.plain()
    declared: Declared | None = None
    # The trainable's own error is told when the space is built.
    with contextlib.suppress(SpaceError):
        declared = Declared.of(str(plain.get("trainable")), plain.get("base"))
    sections = {
        word: plain[word] for word in ("knobs", "task") if isinstance(plain.get(word), dict)
    }
    knobs = {**sections.get("knobs", {}), **((declared and declared.knobs) or {})}
    task = {**sections.get("task", {}), **((declared and declared.task) or {}), "split_seed": None}
    words = [*RangeShape.model_fields, "choice", "grid"]
    return [
        *(f"knobs.{name}" for name in knobs),
        *(f"knobs.{name}.{word}" for name in knobs for word in words),
        *(f"knobs.{name}.when.{other}" for name in knobs for other in knobs if other != name),
        *(f"task.{word}" for word in task),
        *(f"{word}.{below}" for word, model in SECTIONS.items() for below in model.model_fields),
        *(word for word in Document.model_fields if word not in {"samtune", "extends"}),
    ]
