"""The configurations that a search tries, in their order.

`grid` tries every combination. `random` and `sobol` place points in the space before the search
begins. The other methods place their first points by Sobol's sequence and then learn from the
trials that have ended.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from samtune.search.coordinates import at_step, encoded, place, suggested
from samtune.search.learning import LearningStudy
from samtune.search.samplers import Samplers
from samtune.space.knobs import (
    Choice,
    Domain,
    Fixed,
    Grid,
    Range,
    Value,
    among,
    fitted,
    listed,
    same,
    steps,
)
from samtune.space.search_space import SearchSpace
from samtune.space.search_words import PLACED

# The name under which the index of a tied point is drawn; no knob can be called so.
POINT = "(point)"

_UNKNOWN = object()


@dataclass(frozen=True)
class Proposal:
    """One configuration to try; `number` counts from 0 within the space."""

    number: int
    knobs: dict[str, Value]
    origin: str


class Proposals:
    """The proposals of one space, which may depend on the trials that have ended.

    Every sampled point is tried with every combination of the grids. A combination that differs
    from another only in knobs whose `when` is false is left out. Under the method `grid`, choices,
    stepped ranges and tied points are grids too.

    Attributes:
        total: The number of proposals.
        asked: The number of proposals that were made.
        learning: The study of a method that learns; None for the others.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._domains = _in_order_of_conditions(space)
        method = space.search.method
        axes = {
            name: values
            for name, domain in self._domains.items()
            if (values := _axis(domain, method)) is not None
        }
        self._grid = [
            dict(zip(axes, combination, strict=True))
            for combination in itertools.product(*axes.values())
        ]
        self._first = [
            ("default", space.default()) if point == "default" else ("enqueued", dict(point))
            for point in space.search.first
            if method != "grid"
        ]
        self._sampled = {
            name: domain
            for name, domain in self._domains.items()
            if name not in axes and not isinstance(domain, Fixed)
        }
        # Grids alone are tried once; without any knob to search, each trial repeats the default.
        samples = space.budget.trials if self._sampled or not axes else 1
        self._units = _unit_points(space, samples, len(self._sampled))
        self._plan = [
            (sample, combination)
            for sample in range(samples)
            for combination in self._combinations(sample)
        ]
        self.total = len(self._plan)
        self.asked = 0
        self.learning = None
        if method not in PLACED:
            search, domains = space.search, self._sampled.values()
            samplers = Samplers(method, search.seed, search.sobol, domains)
            self.learning = LearningStudy(samplers, search.aims)

    @property
    def is_over(self) -> bool:
        """True if all proposals have been made."""
        return self.asked >= self.total

    def ask(self) -> Proposal | None:
        """Return the next proposal, or None when all have been made."""
        if self.is_over:
            return None
        number = self.asked
        self.asked += 1
        sample, combination = self._plan[number]
        origin = "grid" if self.space.search.method == "grid" else "sampled"
        if sample < len(self._first):
            origin = self._first[sample][0]
        return Proposal(number, self._propose(number, self._known(sample) | combination), origin)

    def ask_again(self, number: int, knobs: Mapping[str, Value]) -> None:
        """Repeat a proposal of the record, or of a paused trial, without drawing anything.

        Raises:
            ValueError: If the knobs are not of this space.
        """
        self.asked = max(self.asked, number + 1)
        known = self._coordinates(knobs)
        resolved = self._resolve(known)
        if resolved.keys() != knobs.keys() or not all(
            same(value, knobs[name]) for name, value in resolved.items()
        ):
            raise ValueError(f"trial {number} of {self.space.name} does not fit its space")
        self._propose(number, known)

    def tell(
        self,
        number: int,
        state: str,
        values: Mapping[int, float],
        last: Mapping[str, float] | None = None,
    ) -> None:
        """Use the values of a trial that ended or paused.

        Args:
            number: The trial.
            state: How it ended.
            values: Its reports of the first metric by epoch.
            last: All metrics of its last report; needed for several metrics and for constraints.
        """
        if self.learning is not None:
            self.learning.tell(number, state, values, last or {})

    def _propose(self, number: int, known: Mapping[str, Value]) -> dict[str, Value]:
        """Return the configuration with the known values; the study draws the rest."""
        trial = None
        if self.learning is not None:
            numbers = {name: encoded(self._domains[name], value) for name, value in known.items()}
            trial = self.learning.ask(number, numbers)
        return self._resolve(known, trial)

    def _resolve(
        self, known: Mapping[str, Value], trial: optuna.Trial | None = None
    ) -> dict[str, Any]:
        """Return the active knobs; unknown values are drawn by `trial`, or stay _UNKNOWN."""
        values: dict[str, Any] = {}
        for name, domain in self._domains.items():
            if not all(
                other in values and (values[other] is _UNKNOWN or among(values[other], allowed))
                for other, allowed in domain.when.items()
            ):
                continue
            value: Any = domain.value if isinstance(domain, Fixed) else _UNKNOWN
            if not isinstance(domain, Fixed):
                # The trial suggests what is known as well, so that the study learns from it.
                value = _UNKNOWN if trial is None else suggested(trial, name, domain)
                value = known.get(name, value)
            if name != POINT:
                values[name] = value
            elif value is _UNKNOWN:
                values |= dict.fromkeys(self.space.points[0], _UNKNOWN)
            else:
                values |= self.space.points[value]
        return values

    def _combinations(self, sample: int) -> list[dict[str, Value]]:
        """Return the combinations of the grids that differ in an active knob."""
        if not any(self._domains[name].when for name in self._grid[0]):
            return self._grid
        known = self._known(sample)
        distinct: dict[str, dict[str, Value]] = {}
        for combination in self._grid:
            resolved = self._resolve(known | combination)
            distinct.setdefault(json.dumps(resolved, default=str), combination)
        return list(distinct.values())

    def _known(self, sample: int) -> dict[str, Value]:
        """Return the values of a sampled point that are known before it is proposed."""
        known: dict[str, Value] = {}
        if sample < len(self._units):
            row = zip(self._sampled.items(), self._units[sample], strict=True)
            known = {name: place(domain, u) for (name, domain), u in row}
        if sample < len(self._first):
            known |= self._coordinates(self._first[sample][1])
        return known

    def _coordinates(self, point: Mapping[str, Value]) -> dict[str, Value]:
        """Return the part of a point that is searched, with tied values as their index."""
        known = {
            name: fit
            for name, domain in self._domains.items()
            if name in point and not isinstance(domain, Fixed)
            if (fit := fitted(domain, point[name])) is not None
        }
        for index, tied in enumerate(self.space.points):
            if all(listed(point[n], [v]) is not None for n, v in tied.items() if n in point):
                known[POINT] = index
                break
        return known


def _in_order_of_conditions(space: SearchSpace) -> dict[str, Domain]:
    """Return all domains; a knob comes after those that its `when` asks about."""
    tied = set().union(*space.points) if space.points else set()
    ordered: dict[str, Domain] = {}
    if space.points:
        ordered[POINT] = Choice(tuple(range(len(space.points))), default=0)
    waiting = dict(space.knobs)
    while waiting:
        name = next(
            name
            for name, domain in waiting.items()
            if all(other in ordered or other in tied for other in domain.when)
        )
        ordered[name] = waiting.pop(name)
    return ordered


def _axis(domain: Domain, method: str) -> Sequence[Value] | None:
    """Return the values of a domain that is a grid under this method, or None."""
    if isinstance(domain, Grid) or (isinstance(domain, Choice) and method == "grid"):
        return domain.values
    if isinstance(domain, Range) and method == "grid":
        return [at_step(domain, k) for k in range(steps(domain) or 0)]
    return None


def _unit_points(space: SearchSpace, samples: int, width: int) -> list[list[float]]:
    """Return the points of the unit cube that are placed before the search, one per row."""
    method, seed = space.search.method, space.search.seed
    if method == "random":
        drawn: list[list[float]] = np.random.default_rng(seed).random((samples, width)).tolist()
        return drawn
    placed = samples if method == "sobol" else min(space.search.sobol, samples)
    if method == "grid":
        placed = 0
    if not width or not placed:
        return []
    # Imported late: this takes a second, which the other methods do not need.
    import torch

    engine = torch.quasirandom.SobolEngine(width, True, seed)
    points: list[list[float]] = engine.draw(placed, dtype=torch.float64).tolist()
    return points
