"""The origin of each value of a resolved space: `file:line`, `--set`, `default of asam`."""

from __future__ import annotations

from typing import Any

from samtune.space.schema import SECTIONS, Document, RangeShape
from samtune.space.strict_yaml import Node
from samtune.space.trainable import Declared


def origins(
    root: Node, resolved: dict[str, Any], document: Document, declared: Declared | None
) -> dict[str, str]:
    """Return the origin of each knob and value, by dotted path; `root` is what was written."""
    found: dict[str, str] = {}

    def go(value: Any, path: tuple[str, ...]) -> None:
        if (len(path) == 2 and path[0] == "knobs") or (path and not isinstance(value, dict)):
            found[".".join(path)] = _source(root, path) or _default(
                value, path, document, declared
            )
        if isinstance(value, dict):
            for word, below in value.items():
                go(below, (*path, word))

    go(resolved, ())
    return found


def _source(root: Node, path: tuple[str, ...]) -> str | None:
    node = root
    for word in path:
        if not isinstance(node.value, dict) or word not in node.value:
            return None
        node = node.value[word]
    mark = node.mark
    return f"{mark.source}:{mark.line}" if mark.line else "--set"


def _default(
    value: Any, path: tuple[str, ...], document: Document, declared: Declared | None
) -> str:
    if declared is None or path[0] in SECTIONS or path[-1] in {"scale", "type"}:
        return "default"
    if path[0] == "knobs" and path[-1] == "default":
        knob = (declared.knobs or {}).get(path[1])
        if knob is None or knob.default != value:
            shape = document.knobs[path[1]]
            return "middle of the range" if isinstance(shape, RangeShape) else "first listed"
    if path == ("task", "split_seed") and "split_seed" not in (declared.task or {}):
        return "default"
    return f"default of {declared.name}"
