"""The words `knobs` and `points` of a space."""

from __future__ import annotations

from typing import Any

from samtune.messages import quoted
from samtune.space.knob_reader import KnobReader
from samtune.space.knobs import Domain, Fixed, Value, same
from samtune.space.schema import Document
from samtune.space.strict_yaml import Node
from samtune.space.word_types import NAME


class KnobSection:
    """A reader of all knobs of a space; the reader of single knobs collects the problems.

    Attributes:
        nodes: The knobs as they are written.
        faulty: The knobs that could not be read, once `knobs` has run.
    """

    def __init__(self, reader: KnobReader, root: Node, document: Document) -> None:
        self.reader = reader
        self.root = root
        self.document = document
        nodes = root.at("knobs").value
        self.nodes = nodes if isinstance(nodes, dict) else {}
        self.faulty: set[str] = set()

    def points(self) -> tuple[dict[str, Value], ...]:
        """Return the tied points, without the faulty ones."""
        points: list[dict[str, Value]] = []
        given = self.document.points or []
        nodes = self.root.at("points").value if given else []
        assert isinstance(nodes, list)
        for index, (point, node) in enumerate(zip(given, nodes, strict=True)):
            if not point or point.keys() != given[0].keys():
                wanted = ", ".join(given[0]) or "at least one knob"
                self._wrong(node, f"points[{index}]: every point names the same knobs: {wanted}")
                continue
            whole = self._point(point, node)
            if any(all(same(v, known[name]) for name, v in whole.items()) for known in points):
                self._wrong(node, f"points[{index}]: this point is listed twice")
            points.append(whole)
        return tuple(points)

    def knobs(self, points: tuple[dict[str, Value], ...]) -> dict[str, Domain]:
        """Return the domains of the knobs that are written, and of those that are declared."""
        tied = set(points[0]) if points else set()
        domains: dict[str, Domain] = {}
        for name, shape in self.document.knobs.items():
            domain = self._domain(name, shape, tied)
            if domain is not None:
                domains[name] = domain
        self.faulty = {name for name in self.nodes if name not in domains and name not in tied}
        declared = self.reader.declared
        for name, knob in self.reader.knobs.items():
            if name not in domains and name not in self.faulty and name not in tied:
                domains[name] = Fixed(knob.default)
        if declared is not None and declared.knobs is None:
            message = f"{declared.reference} declares no knobs, so these are not checked"
            self.reader.warnings.append((self.root.at("trainable").mark, message))
        return domains

    def _point(self, point: dict[str, Value], node: Node) -> dict[str, Value]:
        entries = node.value if isinstance(node.value, dict) else {}
        fits = {
            name: self.reader.checked(name, value, entries[name])
            for name, value in point.items()
            if self._is_knob(name, entries[name])
        }
        return {name: value for name, value in fits.items() if value is not None}

    def _domain(self, name: str, shape: Any, tied: set[str]) -> Domain | None:
        node = self.nodes[name]
        if shape is None:
            if name not in tied:
                self._wrong(node, f"{name}: null removes an inherited knob, and there is none")
            return None
        if name in tied:
            message = f"{name} is tied by `points`; remove it here, or write `{name}: null`"
            self.reader.problems.append((node.key, message))
            return None
        return self.reader.domain(name, shape, node) if self._is_knob(name, node) else None

    def _is_knob(self, name: str, node: Node) -> bool:
        declared = self.reader.declared
        if not NAME.fullmatch(name):
            message = f"{quoted(name)} is no name for a knob; use letters, digits and _"
        elif declared is None or declared.knobs is None or name in declared.knobs:
            return True
        else:
            message = declared.unknown_knob(name)
        self.reader.problems.append((node.key, message))
        return False

    def _wrong(self, node: Node, message: str) -> None:
        self.reader.problems.append((node.mark, message))
