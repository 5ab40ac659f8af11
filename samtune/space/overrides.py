"""The values that `--set path=value` puts on top of a space file."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Sequence

from samtune.messages import elsewhere, quoted
from samtune.space import strict_yaml
from samtune.space.errors import SpaceError
from samtune.space.files import replaced
from samtune.space.schema import SECTIONS, Document, RangeShape
from samtune.space.strict_yaml import Mark, Node, Problem, StrictYamlError
from samtune.space.trainable import Declared
from samtune.space.word_types import NAME

# Each metric has an entry of its own there.
_OF_METRIC = re.compile(rf"search\.(metrics|constraints)\.{NAME.pattern}")


def override(root: Node, items: Sequence[str]) -> tuple[Node, list[Problem]]:
    """Return the tree with each `path=value` applied in order, and the problems with them.

    A null removes a knob, or a part of one.
    """
    problems: list[Problem] = []
    for item in items:
        mark = Mark(f"--set {item if item.isprintable() else quoted(item)}")
        path, equals, text = item.partition("=")
        path = path.strip()
        if not equals or not path or not text.strip():
            problems.append((mark, "write it as path=value, such as lr.max=0.3"))
            continue
        try:
            value = _placed(mark, strict_yaml.load(text.encode("utf-8", "replace"), ""))
        except StrictYamlError as error:
            problems += [(mark, message) for _, message in error.problems]
            continue
        known = _settable(root)
        head = path.split(".")[0]
        full = path if head in Document.model_fields else f"knobs.{path}"
        if full not in known and not _OF_METRIC.fullmatch(full):
            problems.append((mark, _unknown(path, known)))
            continue
        removes = value.value is None and (full.startswith("knobs.") or full == "points")
        root = replaced(root, full.split("."), value, removes)
    return root, problems


def _unknown(path: str, known: Sequence[str]) -> str:
    short = [name.removeprefix("knobs.") for name in known]
    *section, word = path.removeprefix("knobs.").split(".")
    if (meant := ".".join([*section, elsewhere(word)])) in {*short, *Document.model_fields}:
        return f"{quoted(path)} is nothing that can be set; did you mean {meant!r}?"
    near = difflib.get_close_matches(path, short, 3, 0.3)
    choices = ", ".join(near) or ", ".join(short[:3])
    return f"{quoted(path)} is nothing that can be set; nearest: {choices}"


def _placed(mark: Mark, node: Node) -> Node:
    """Return the node with `mark` as the place of each of its parts."""
    value = node.value
    if isinstance(value, dict):
        value = {word: _placed(mark, below) for word, below in value.items()}
    elif isinstance(value, list):
        value = [_placed(mark, below) for below in value]
    return Node(value, mark, mark)


def _settable(root: Node) -> list[str]:
    """Return the dotted paths that may be set in this tree."""
    plain = root.plain()
    declared: Declared | None = None
    # The build of the space reports what is wrong with the trainable.
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
        *(word for word in Document.model_fields if word not in {"samtune", "extends", "member"}),
    ]
