"""What to try next: an Optuna study a space, asked and told by a thin Ray Searcher.

TPE's study lives in memory. Each question to a sampler is seeded by (seed, trial number) alone, so
a study rebuilt from the record goes on as if it had never stopped. The other methods learn nothing
from how trials end, so each of their proposals is a study of its own, dropped with the trial.

TPE looks at every ended trial at every question. Its model of the good ones is made of the best 25
and its model of the rest fades with age, so a study that has grown to `HELD` ended trials is begun
anew with `KEPT` of them: a proposal costs no more after 10,000 trials than after 400. What is kept
follows from the order of questions and ends alone, which is on record.
"""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from samtune.search.journal import Mirror
from samtune.space.search_space import Choice, Domain, Fixed, Grid, Range, SearchSpace
from samtune.trial import Value

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

# The name under which the index of a tied point is drawn; no knob can be called so.
POINT = "(point)"
# How many ended trials TPE learns from: at most, and after the study is begun anew. Below `HELD` a
# study is Optuna's own, to the bit. TPE takes a tenth of what it has for good, and at most 25, so
# `KEPT` must be 250 at least.
HELD, KEPT = 400, 250
_BEST = 25


@dataclass(frozen=True)
class Proposal:
    """One configuration to try; `number` counts from 0 within the space."""

    number: int
    knobs: dict[str, Value]
    origin: str


class Proposals:
    """The proposals of one space, in order, and the Optuna study that learns from their ends.

    Grid knobs multiply: every sampled point is tried with every combination of the grids. Under
    the method `grid` choices, stepped ranges and tied points are grids too, and each distinct
    combination is tried once.

    Ended trials are copied to the Optuna journal `mirror`, which optuna-dashboard opens while the
    sweep runs; nothing reads it back, so it cannot hurt a resume.
    """

    def __init__(self, space: SearchSpace, mirror: Path | None = None) -> None:
        self.space = space
        self._domains = _domains(space)
        axes = {
            name: values
            for name, domain in self._domains.items()
            if (values := _axis(domain, space.search.method)) is not None
        }
        self._grid = [
            dict(zip(axes, combination, strict=True))
            for combination in itertools.product(*axes.values())
        ]
        self._first: list[tuple[str, dict[str, Value]]] = []
        samples = 1
        if space.search.method == "grid":
            distinct = {json.dumps(self._resolve(point)): point for point in self._grid}
            self._grid = list(distinct.values())
        else:
            samples = space.budget.trials
            self._first = [
                ("default", space.default()) if point == "default" else ("enqueued", dict(point))
                for point in space.search.first
            ]
        self.total = len(self._grid) * samples
        self.asked = 0
        self._units = _unit_points(space, samples, len(self._domains))
        mode = space.search.mode
        direction = StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE
        self._direction = direction
        self.study = self._new_study() if space.search.method == "tpe" else None
        self._shared = IntersectionSearchSpace(include_pruned=True)
        self._mirror = Mirror(mirror, space.name, direction) if mirror is not None else None
        self._ended = 0
        self._open: dict[int, optuna.Trial] = {}
        self._paused: dict[int, FrozenTrial] = {}

    def ask(self) -> Proposal | None:
        """The next proposal, or None when all have been made."""
        if self.asked >= self.total:
            return None
        number = self.asked
        self.asked += 1
        sample, combination = divmod(number, len(self._grid))
        fixed: dict[str, Value] = dict(self._grid[combination])
        origin = "grid" if self.space.search.method == "grid" else "sampled"
        if sample < len(self._first):
            origin, point = self._first[sample]
            fixed = {**self._drawn(point), **fixed}
        elif self._units is not None:
            row = zip(self._domains.items(), self._units[sample], strict=True)
            fixed = {name: _place(domain, u) for (name, domain), u in row} | fixed
        seed = np.random.SeedSequence([self.space.search.seed, number]).generate_state(1)[0]
        return Proposal(number, self._enqueue(number, fixed, self._sampler(int(seed))), origin)

    def ask_again(self, number: int, knobs: Mapping[str, Value]) -> None:
        """Puts a proposal of the record, or one that had paused, before the study; nothing is
        drawn. Raises ValueError when the knobs are not of this space."""
        self.asked = max(self.asked, number + 1)
        sampler = optuna.samplers.RandomSampler(seed=0)
        if self._enqueue(number, self._drawn(knobs), sampler) != dict(knobs):
            raise ValueError(f"trial {number} of {self.space.name} does not fit its space")

    def _new_study(self) -> optuna.Study:
        return optuna.create_study(direction=self._direction)

    def _enqueue(
        self, number: int, fixed: Mapping[str, Any], sampler: optuna.samplers.BaseSampler
    ) -> dict[str, Value]:
        study = self.study or self._new_study()
        study.sampler = sampler
        study.enqueue_trial(dict(fixed))
        trial = self._open[number] = study.ask()
        return self._resolve({}, trial)

    def tell(self, number: int, state: str, values: Mapping[int, float]) -> FrozenTrial:
        """Tells the study how a trial ended, and returns Optuna's own row of it; `values` are its
        reports by epoch.

        A pruned trial is told as PRUNED with its last value, and so is a paused one, which is
        asked again if it goes on. A diverged one is told as PRUNED without any, which TPE ranks
        below every other trial. An error teaches nothing (FAIL).
        """
        told, trial = self._paused.pop(number, None), self._open.pop(number, None)
        if trial is not None:
            told = self._tell(trial, state, values)
            self._ended += 1
        # One that is pruned after a pause has been told already.
        assert told is not None, f"trial {number} was never asked for"
        if state == "paused":
            self._paused[number] = told
        elif self._mirror is not None:
            self._mirror.add(told)
        if self.study is not None and self._ended >= HELD:
            self._begin_anew(self.study)
        return told

    def _begin_anew(self, full: optuna.Study) -> None:
        """Fills a new study with the open trials, the best and the latest, in the order in which
        they were asked for; Optuna's cannot let go of a trial. Those that failed teach nothing."""
        trials = full.get_trials(deepcopy=False)
        learned = [t for t in trials if t.state in {TrialState.COMPLETE, TrialState.PRUNED}]
        best = sorted(learned, key=self._rank)[:_BEST]
        good = {trial.number for trial in best}
        latest = [trial.number for trial in learned if trial.number not in good]
        kept = good.union(latest[len(good) - KEPT :])
        waiting = {trial.number: number for number, trial in self._open.items()}
        self.study, self._ended = self._new_study(), len(kept)
        self._shared = IntersectionSearchSpace(include_pruned=True)
        for trial in trials:
            if trial.number in waiting:
                sampler = optuna.samplers.RandomSampler(seed=0)
                self._enqueue(waiting[trial.number], trial.params, sampler)
            elif trial.number in kept:
                self.study.add_trial(trial)

    def _rank(self, trial: FrozenTrial) -> tuple[bool, float, float]:
        """Sorts by TPE's own order: completed trials by value, then pruned ones by how far they
        came and their value there, then diverged ones."""
        sign = -1 if self._direction == StudyDirection.MAXIMIZE else 1
        if trial.state == TrialState.COMPLETE:
            assert trial.value is not None
            return False, 0, sign * trial.value
        step, value = max(trial.intermediate_values.items(), default=(-math.inf, 0.0))
        return True, -step, sign * value

    def _tell(self, trial: optuna.Trial, state: str, values: Mapping[int, float]) -> FrozenTrial:
        trial.set_user_attr("state", "pruned" if state == "paused" else state)
        if state in {"completed", "pruned", "paused"}:
            for step, value in sorted(values.items()):
                trial.report(value, step)
        match state:
            case "completed":
                return trial.study.tell(trial, values[max(values)])
            case "pruned" | "paused" | "diverged":
                return trial.study.tell(trial, state=TrialState.PRUNED)
        return trial.study.tell(trial, state=TrialState.FAIL)

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        if self.space.search.method == "tpe":
            conditional = any(domain.when for domain in self.space.knobs.values())
            return _TPE(None if conditional else self._shared, seed)
        return optuna.samplers.RandomSampler(seed=seed)

    def _resolve(
        self, given: Mapping[str, Value], trial: optuna.Trial | None = None
    ) -> dict[str, Value]:
        """All active knobs: fixed ones as they are, the others as drawn by `trial` or `given`."""
        values: dict[str, Value] = {}
        for name, domain in self._domains.items():
            if not all(values.get(knob) in allowed for knob, allowed in domain.when.items()):
                continue
            if isinstance(domain, Fixed):
                values[name] = domain.value
            elif trial is not None:
                values[name] = _suggest(trial, name, domain)
            else:
                values[name] = given[name]
            if name == POINT:
                values |= self.space.points[int(values.pop(POINT))]
        return values

    def _drawn(self, point: Mapping[str, Value]) -> dict[str, Value]:
        """The part of a full point that is drawn, with tied values as their index."""
        drawn = {
            name: value
            for name, value in point.items()
            if name in self._domains and not isinstance(self._domains[name], Fixed)
        }
        for index, tied in enumerate(self.space.points):
            if all(point.get(name) == value for name, value in tied.items()):
                drawn[POINT] = index
                break
        return drawn


class _TPE(optuna.samplers.TPESampler):
    """Multivariate TPE. The knobs that all trials have in common are looked for by `shared` in
    those since its last look alone: a sampler of Optuna's own that lives for one question would
    go through all. None for a space in which knobs depend on others."""

    def __init__(self, shared: IntersectionSearchSpace | None, seed: int) -> None:
        super().__init__(seed=seed, multivariate=True, group=shared is None, constant_liar=True)
        self._shared = shared

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        if self._shared is None:
            return super().infer_relative_search_space(study, trial)
        found = self._shared.calculate(study)
        return {name: domain for name, domain in found.items() if not domain.single()}


def _domains(space: SearchSpace) -> dict[str, Domain]:
    """All domains, those that a condition asks about before the ones it is asked for."""
    waiting = dict(space.knobs)
    tied = set().union(*space.points) if space.points else set()
    ordered: dict[str, Domain] = {}
    if space.points:
        ordered[POINT] = Choice(tuple(range(len(space.points))), default=0)
    while waiting:
        name = next(
            name
            for name, domain in waiting.items()
            if all(asked in ordered or asked in tied for asked in domain.when)
        )
        ordered[name] = waiting.pop(name)
    return ordered


def _axis(domain: Domain, method: str) -> tuple[Value, ...] | None:
    match domain:
        case Grid(values=values):
            return values
        case Choice(values=values) if method == "grid":
            return values
        case Range(low=low, high=high, step=step, type=kind) if (
            method == "grid" and step is not None
        ):
            count = math.floor((high - low) / step + 1e-9) + 1
            return tuple(_at_step(low, step, k, kind) for k in range(count))
    return None


def _at_step(low: float, step: float, k: int, kind: str) -> Value:
    # 0.3 and not 0.30000000000000004, which would lie above a `max` of 0.3.
    value = float(f"{low + k * step:.12g}")
    return int(value) if kind == "int" else value


def _unit_points(space: SearchSpace, samples: int, width: int) -> NDArray[np.float64] | None:
    """One point of the unit cube a sample; None where a sampler of Optuna's draws instead."""
    match space.search.method:
        case "random":
            return np.random.default_rng(space.search.seed).random((samples, width))
        case "sobol":
            from scipy.stats import qmc

            engine = qmc.Sobol(width, scramble=True, rng=space.search.seed)
            # A power of two keeps the sequence's balance.
            points: NDArray[np.float64] = engine.random_base2(math.ceil(math.log2(samples)))
            return points[:samples]
    return None


def _place(domain: Domain, u: float) -> Value:
    """The value at `u` of [0, 1) through a domain."""
    match domain:
        case Fixed(value=value):
            return value
        case Choice(values=values) | Grid(values=values):
            return values[int(u * len(values))]
        case Range(low=low, high=high, scale=scale, step=step, type=kind):
            if step is not None:
                count = math.floor((high - low) / step + 1e-9) + 1
                return _at_step(low, step, int(u * count), kind)
            if kind == "int":
                high = high + 1
            if scale == "log":
                value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
            else:
                value = low + u * (high - low)
            return min(int(value), int(high) - 1) if kind == "int" else value
    raise TypeError(f"no such domain: {domain!r}")


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Value:
    match domain:
        case Choice(values=values) | Grid(values=values):
            value: Value = trial.suggest_categorical(name, values)  # type: ignore[assignment]
            return value
        case Range(low=low, high=high, scale=scale, step=step, type=kind):
            log = scale == "log"
            if kind == "int":
                return trial.suggest_int(name, int(low), int(high), step=int(step or 1), log=log)
            return trial.suggest_float(name, low, high, step=step, log=log)
    raise TypeError(f"no such domain: {domain!r}")
