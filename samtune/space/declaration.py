"""The declarations of a space's trainable, and the values that it refuses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from samtune.errors import SamtuneError
from samtune.messages import nearest, quoted
from samtune.space.errors import SpaceError
from samtune.space.knob_reader import KnobReader
from samtune.space.knobs import Domain, Fixed, Range, Value, active, default_of, listed_values
from samtune.space.schema import Document
from samtune.space.strict_yaml import Node, Problem
from samtune.space.trainable import Declared
from samtune.space.word_types import NAME, not_a_number, scalar


def declaration(
    root: Node, document: Document, broken: set[tuple[str, ...]], problems: list[Problem]
) -> Declared | None:
    """Return what the trainable declares; None after a problem, which is added to `problems`."""
    reference = document.trainable
    if reference is None:
        if ("trainable",) not in broken:
            from samtune.optimizers import VARIANTS

            message = f"'trainable' is missing; write one of {', '.join(sorted(VARIANTS))}"
            problems.append((root.mark, f"{message}: `trainable: asam`"))
        return None
    try:
        declared = Declared.of(reference, document.base)
    except SpaceError as error:
        problems += [(root.at("trainable").mark, message) for message in error.messages]
        return None
    if declared.base_fault:
        problems.append((root.at("base").mark, declared.base_fault))
        # The knobs of an unknown base are unknown; errors about them would mislead.
        return None
    given = document.variant
    if given is not None and given != declared.variant:
        message = f"variant: {declared.reference} is {declared.variant!r}, not {quoted(given)}"
        problems.append((root.at("variant").mark, f"{message}; remove the line"))
    return declared


def read_task(reader: KnobReader, root: Node, document: Document) -> dict[str, Value]:
    """Return the task with what the trainable declares filled in."""
    task: dict[str, Value] = {}
    known = reader.declared.task if reader.declared else None
    for name, written in document.task.items():
        node = root.at("task", name)
        if isinstance(written, list) and known and name in known and known[name].lists:
            written = ", ".join(map(str, written))
        try:
            value: Value = scalar(written)
        except ValueError as error:
            reader.problems.append((node.mark, f"task.{name}: {error}"))
            continue
        fit: Value | None = value
        if known is not None and name in known:
            fit = reader.fitting(known[name], value, node, f"task.{name}")
        elif name == "split_seed":
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                why = not_a_number(value) if isinstance(value, str | bool) else f"not {value}"
                message = f"task.split_seed: a whole number of at least 0; {why}"
                reader.problems.append((node.mark, message))
        elif known is not None:
            hint = nearest(name, [*known, "split_seed"])
            reader.problems.append((node.key, f"task has no word {quoted(name)}; {hint}"))
        elif not NAME.fullmatch(name):
            message = f"{quoted(name)} is no name for a task word; use letters, digits and _"
            reader.problems.append((node.key, message))
        if fit is not None:
            task[name] = fit
    for name, knob in (known or {}).items():
        task.setdefault(name, knob.default)
    task.setdefault("split_seed", 1)
    return task


def ask_trainable(
    reader: KnobReader,
    root: Node,
    document: Document,
    domains: Mapping[str, Domain],
    points: Sequence[Mapping[str, Value]],
    task: Mapping[str, Value],
) -> None:
    """Let the trainable check that knobs and task words go together.

    A trainable may offer `check(knobs, base)`, `check_task(task, epochs)`,
    `faults(knobs, base, task, gpus, workers)`, `see_per_epoch(knobs, base)` and `one_gpu`.
    """
    declared, budget = reader.declared, document.budget
    assert declared is not None
    combinations = _combinations(domains, points)
    knobs = next(combinations)
    check, check_task, cost = (
        getattr(declared.trainable, name, None)
        for name in ("check", "check_task", "see_per_epoch")
    )
    try:
        if check:
            check(knobs, declared.base)
    except (ValueError, SamtuneError) as error:
        reader.problems.append((root.at("knobs").mark, str(error)))
        return
    gpus = document.resources.gpus
    if gpus > 1 and getattr(declared.trainable, "one_gpu", False):
        problem = (
            f"resources.gpus: {gpus:g}, and a process of {declared.name} computes on one GPU; "
            f"write `resources: {{gpus: 1, workers: {gpus:g}}}` for a trial on {gpus:g} of them"
        )
        reader.problems.append((root.at("resources", "gpus").mark, problem))
    if document.confirm.sharpness and not hasattr(declared.trainable, "sharpness"):
        problem = (
            f"confirm.sharpness: {declared.name} has no method sharpness(config, settings), so "
            "its models are not measured; remove this line"
        )
        reader.problems.append((root.at("confirm", "sharpness").mark, problem))
    if check_task and cost and budget.kind != "seconds":
        per_epoch = cost(knobs, declared.base) if budget.kind == "compute" else 1.0
        try:
            check_task(task, budget.per_trial / per_epoch)
        except (ValueError, SamtuneError) as error:
            # The sentence begins with the word that it is about.
            mark = root.at("task", str(error).split()[0]).mark
            reader.problems.append((mark, f"task.{error}"))
    faults = getattr(declared.trainable, "faults", None)
    if faults:
        asked = {"gpus": gpus, "workers": document.resources.workers}
        tried = itertools.chain([knobs], combinations)
        found = [fault for each in tried for fault in faults(each, declared.base, task, **asked)]
        for fault in dict.fromkeys(found):
            path = fault.partition(":")[0].split(".")
            reader.problems.append((root.at(*path).mark, fault))


def _combinations(
    domains: Mapping[str, Domain], points: Sequence[Mapping[str, Value]]
) -> Iterator[dict[str, Value]]:
    """Yield the active knobs of trials that a space may have.

    These are the defaults, then the defaults with one other value of a knob, then with two: the
    ends of ranges and of listed numbers, each other listed value, and tied points.
    """
    defaults = {name: default_of(domain) for name, domain in domains.items()}
    first = {**defaults, **(points[0] if points else {})}
    yield active(domains, first)
    listed = {name: d for name, d in domains.items() if not isinstance(d, Fixed | Range)}
    yield from (
        active(domains, {**first, name: value})
        for name, domain in listed.items()
        for value in listed_values(domain)
    )
    others: list[Sequence[Mapping[str, Value]]] = [
        [{name: value} for value in _ends(domain)] for name, domain in domains.items()
    ]
    yield from (
        active(domains, {**first, **change}) for change in itertools.chain(*others, points[1:])
    )
    for some, more in itertools.combinations([*others, points[1:]], 2):
        for one, other in itertools.product(some, more):
            yield active(domains, {**first, **one, **other})


def _ends(domain: Domain) -> list[Value]:
    """Return the ends of a range, and of listed values all texts and the ends of the numbers."""
    if isinstance(domain, Fixed):
        return []
    if isinstance(domain, Range):
        return [domain.low, domain.high]
    values = listed_values(domain)
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    ends = [min(numbers), max(numbers)] if numbers else []
    return [*(v for v in values if isinstance(v, str | bool)), *ends]
