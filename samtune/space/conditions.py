"""The check that the condition `when` of each knob can be true."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from samtune.messages import nearest, quoted
from samtune.space.knob_reader import KnobReader
from samtune.space.knobs import Domain, Range, Value, When, active, fitted, listed, listed_values
from samtune.space.strict_yaml import Node


class Conditions:
    """The conditions of all knobs of a space.

    Args:
        reader: Gathers the problems.
        domains: The knobs; values in a condition are replaced by those of the knob it refers to.
        points: The tied points.
        nodes: The knobs as they are written.
        faulty: The knobs that could not be read.
    """

    def __init__(
        self,
        reader: KnobReader,
        domains: dict[str, Domain],
        points: Sequence[Mapping[str, Value]],
        nodes: Mapping[str, Node],
        faulty: set[str],
    ) -> None:
        self.reader = reader
        self.domains = domains
        self.points = points
        self.nodes = nodes
        self.faulty = faulty

    def check(self) -> None:
        """Add to the reader's problems, and convert the values of conditions to their types."""
        for name, domain in list(self.domains.items()):
            if domain.when and self._known(name, domain.when):
                fits = {
                    other: self._possible(name, other, allowed)
                    for other, allowed in domain.when.items()
                }
                self.domains[name] = dataclasses.replace(domain, when=fits)
        if self.reader.problems or self.faulty:
            return
        for name, domain in self.domains.items():
            if domain.when and self._not_too_deep(name) and not self._satisfiable(name):
                self._wrong(name, "these conditions are never true together")

    def _node(self, name: str, other: str) -> Node:
        return self.nodes[name].at("when", other)

    def _wrong(self, name: str, message: str, other: str = "") -> None:
        problem = (self._node(name, other).mark, f"{name}.when: {message}")
        self.reader.problems.append(problem)

    def _known(self, name: str, when: When) -> bool:
        names = {*self.domains, *(self.points[0] if self.points else ())}
        known = True
        for other in when:
            if other == name:
                self._wrong(name, "a knob cannot depend on itself", other)
            elif other not in names and other not in self.faulty:
                hint = nearest(other, sorted(names - {name}), "knobs")
                self._wrong(name, f"no knob is called {quoted(other)}; {hint}", other)
            known &= other != name and other in names
        return known

    def _possible(self, name: str, other: str, allowed: tuple[Value, ...]) -> tuple[Value, ...]:
        """Return the values of a condition in the types of the knob that it refers to."""
        fits: list[Value] = []
        domain = self.domains.get(other)
        for value in allowed:
            checked = self.reader.checked(other, value, self._node(name, other), warn=False)
            if checked is None:
                continue
            if isinstance(domain, Range):
                fit = fitted(domain, checked)
                never = "never holds" if fit is None else "is hardly ever"
                message = (
                    f"{other} is a range from {domain.low} to {domain.high}, which "
                    f"{never} {quoted(checked)}"
                )
                fit = fit if domain.step or domain.type == "int" else None
            else:
                has = (
                    [point[other] for point in self.points]
                    if domain is None
                    else listed_values(domain)
                )
                fit = listed(checked, has)
                message = (
                    f"{other} is never {quoted(checked)}; {nearest(checked, has, 'it is one of')}"
                )
            if fit is None:
                self._wrong(name, message, other)
                fit = checked
            fits.append(fit)
        return tuple(fits)

    def _not_too_deep(self, name: str) -> bool:
        chain = [name]
        level = {name}
        while level := {
            other for asked in level if asked in self.domains for other in self.domains[asked].when
        }:
            chain.append(sorted(level)[0])
            if name in level:
                self._wrong(name, f"goes round in a circle: {' -> '.join(chain)}")
                return False
            if len(chain) > 3:
                self._wrong(name, f"at most two conditions in a row: {' -> '.join(chain)}")
                return False
        return True

    def _satisfiable(self, name: str) -> bool:
        asked: dict[str, list[Value]] = {}
        waiting = [name]
        while waiting:
            domain = self.domains.get(waiting.pop())
            for other, allowed in (domain.when if domain else {}).items():
                asked.setdefault(other, []).extend(allowed)
                waiting.append(other)
        free = [other for other in asked if other in self.domains]
        # Other values than those that a condition asks for make none true.
        axes = [[v for v in asked[o] if fitted(self.domains[o], v) is not None] for o in free]
        return any(
            name in active(self.domains, {**point, **dict(zip(free, row, strict=True)), name: 0})
            for point in self.points or ({},)
            for row in itertools.product(*axes)
        )
