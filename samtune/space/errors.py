"""The errors of a space: one line per mistake, each with its place in a file.

`read_document` checks a tree against the models of `schema` and puts what pydantic finds into
sentences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from samtune.errors import SamtuneError
from samtune.messages import nearest, quoted
from samtune.space.schema import SECTIONS, ChoiceShape, Document, GridShape, RangeShape
from samtune.space.strict_yaml import Node, Problem
from samtune.space.word_types import NOTHING


class SpaceError(SamtuneError):
    """Mistakes in a space file; `messages` has one line per mistake, sorted by place."""

    exit_code = 2


def space_error(problems: Sequence[Problem]) -> SpaceError:
    """Return the problems as one error, sorted by place, without repetitions."""
    return SpaceError([f"{mark}: {text}" for mark, text in sorted(set(problems))])


def read_document(root: Node) -> tuple[Document, list[Problem], set[tuple[str, ...]]]:
    """Return the document without its faulty parts, the problems, and the paths of these parts."""
    problems: list[Problem] = []
    broken: set[tuple[str, ...]] = set()
    plain = root.plain()
    while True:
        try:
            return Document.model_validate(plain), problems, broken
        except ValidationError as caught:
            errors = [(_path(error["loc"]), error) for error in caught.errors()]
        problems += _problems(root, errors)
        for path, _ in errors:
            # Only the faulty knob or word is left out, so that the rest is checked as well.
            part = tuple(map(str, path[:2]))
            if part[0] == "samtune":
                plain["samtune"] = 1
            elif len(part) == 1 or not isinstance(plain.get(part[0]), dict):
                plain.pop(part[0], None)
            else:
                plain[part[0]].pop(part[1], None)
            broken.add(part if part[0] != "points" else part[:1])


def faults(root: Node, caught: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Return the problems of a tree that another model than the document's refuses."""
    errors = [(_path(error["loc"]), error) for error in caught.errors()]
    return _problems(root, errors, list(model.model_fields))


def _path(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return tuple(step for step in loc if not str(step).startswith("<"))


def _problems(
    root: Node,
    errors: list[tuple[tuple[int | str, ...], ErrorDetails]],
    words: Sequence[str] = tuple(Document.model_fields),
) -> list[Problem]:
    problems: dict[tuple[int | str, ...], Problem] = {}
    unknown_in = {path[:-1] for path, error in errors if error["type"] == "extra_forbidden"}
    for path, error in errors:
        if error["type"] == "missing" and path[:-1] in unknown_in:
            continue  # The unknown word is the missing one, misspelt.
        node, reached = root, 0
        for step in path:
            below = node.value
            if isinstance(below, dict) and step in below:
                node = below[str(step)]
            elif isinstance(below, list) and isinstance(step, int):
                node = below[step]
            else:
                break
            reached += 1
        unknown = error["type"] == "extra_forbidden"
        where = ".".join(map(str, path[: reached - 1 if unknown else reached]))
        sentence = _sentence(node, path, reached, error, words)
        mark = node.key if unknown else node.mark
        # Each member of a union fails at the same place; the first sentence is enough.
        problems.setdefault(path[:reached], (mark, f"{where}: {sentence}" if where else sentence))
    return list(problems.values())


def _sentence(
    node: Node,
    path: tuple[int | str, ...],
    reached: int,
    error: ErrorDetails,
    words: Sequence[str],
) -> str:
    context = error.get("ctx", {})
    value = node.value
    match error["type"]:
        case "extra_forbidden":
            owners = (word for word, model in SECTIONS.items() if path[-1] in model.model_fields)
            owner = next(owners, None)
            if len(path) == 1 and owner in words and owner != "member":
                return f"{quoted(path[-1])} is a word of `{owner}:`; move it there"
            known = _known_words(path[:-1], error["loc"], words)
            return f"{quoted(path[-1])} is not a known word here; {nearest(path[-1], known)}"
        case "missing":
            return f"{quoted(path[reached])} is missing"
        case "too_short" if isinstance(value, dict):
            return "the map is empty; remove it"
        case "too_short" if path == ("points",):
            return "the list is empty; remove it"
        case "too_short":
            return "the list is empty; give it a value"
        case "value_error":
            return str(context["error"])
        case "literal_error" if path == ("samtune",):
            return f"this is format {quoted(value)}, and this samtune reads format 1"
        case "literal_error":
            known = [word.strip(" '") for word in re.split(",| or ", str(context["expected"]))]
            if value is None:
                return f"{NOTHING}: {', '.join(known)}"
            if isinstance(value, dict | list):
                return f"one word belongs here: {', '.join(known)}"
            near = nearest(value, known)
            near = f"; {near}" if near.startswith("did") else ""
            return f"{quoted(value)} is none of {', '.join(known)}{near}"
        case "greater_than":
            return f"must be greater than {context['gt']:g}, not {value}"
        case "greater_than_equal":
            return f"must be at least {context['ge']:g}, not {value}"
        case "less_than":
            return f"must be below {context['lt']:g}, not {value}"
        case "less_than_equal":
            return f"must be at most {context['le']:g}, not {value}"
    if value is None:
        return NOTHING
    if error["type"] == "bool_type":
        return f"true or false belongs here, not {quoted(value)}"
    found = (
        "a map"
        if isinstance(value, dict)
        else "a list"
        if isinstance(value, list)
        else quoted(value)
    )
    if error["type"] == "list_type" and path != ("points",) and not isinstance(value, dict):
        return f"a list belongs here: [{value}]"
    expected = {"string_type": "a word", "list_type": "a list [a, b, ...]"}
    fallback = "a map (`word: value`, one a line, indented)"
    return f"{expected.get(error['type'], fallback)} belongs here, not {found}"


def _known_words(
    path: tuple[int | str, ...], loc: tuple[int | str, ...], top: Sequence[str]
) -> list[str]:
    if not path:
        return list(top)
    if path[0] in SECTIONS:
        return list(SECTIONS[str(path[0])].model_fields)
    shapes: dict[str, type[BaseModel]] = {"<choice>": ChoiceShape, "<grid>": GridShape}
    shape = next((shapes[str(step)] for step in loc if step in shapes), RangeShape)
    words = list(shape.model_fields)
    return words if shape is not RangeShape else [*words, "choice", "grid"]
