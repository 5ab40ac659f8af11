"""The check of the sections of a space against each other, the knobs and the metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from samtune.messages import nearest, quoted
from samtune.space.aim_section import AimSection
from samtune.space.knob_reader import KnobReader
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
    steps,
)
from samtune.space.sampler import method_fault
from samtune.space.schema import Document
from samtune.space.search_words import PLACED
from samtune.space.strict_yaml import Node

MAX_GRID = 100_000
_LEAST_SHARE = 1e-4


class Sections:
    """The sections search, asha, budget and resources of a space.

    Args:
        reader: Gathers the problems and warnings.
        root: The space as it is written.
        document: The space as it was read.
        broken: The paths that could not be read.
        metrics: What the trainable reports, each with its better end; None if that is unknown.
    """

    def __init__(
        self,
        reader: KnobReader,
        root: Node,
        document: Document,
        broken: set[tuple[str, ...]],
        metrics: Mapping[str, str] | None,
    ) -> None:
        self.reader = reader
        self.root = root
        self.document = document
        self.broken = broken
        self.metrics = metrics

    def check(
        self,
        knobs: Mapping[str, Domain],
        points: Sequence[Mapping[str, Value]],
        faulty: set[str],
    ) -> None:
        """Add to the reader's problems and warnings. The knobs in `faulty` already have one."""
        document = self.document
        gpus = document.resources.gpus
        AimSection(self.reader, self.root, document, self.metrics).check()
        if document.budget.kind == "seconds" and document.resources.parallel != 1:
            message = (
                "budget.kind: trials that run side by side slow each other down, so seconds "
                "compare only with `resources: {parallel: 1}`"
            )
            self.reader.warnings.append((self.root.at("budget", "kind").mark, message))
        if gpus > 1 and gpus != int(gpus):
            message = f"resources.gpus: {gpus:g}; above 1 it must be a whole number"
            self._wrong(self.root.at("resources", "gpus"), message)
        for word in ("cpus", "gpus"):
            if 0 < (share := getattr(document.resources, word)) < _LEAST_SHARE:
                message = f"resources.{word}: {share:g}; at least {_LEAST_SHARE:g}, as Ray counts"
                self._wrong(self.root.at("resources", word), message)
        workers = document.resources.workers
        if workers > 1 and 0 < gpus < 1:
            message = (
                f"resources.workers: {workers} workers cannot share a GPU, and gpus is {gpus:g}; "
                "give each gpus: 1, or the trial workers: 1"
            )
            self._wrong(self.root.at("resources", "workers"), message)
        self._rungs()
        if document.resources.gpu_sharing == "mps" and not 0 < gpus < 1:
            message = (
                "resources.gpu_sharing: mps is for trials that share a GPU, and gpus is "
                f"{gpus:g}; write a share, such as gpus: 0.5, or remove this line"
            )
            self._wrong(self.root.at("resources", "gpu_sharing"), message)
        if document.resources.gpu_memory_gb and not gpus:
            message = (
                "resources.gpu_memory_gb: it is asked of a trial's GPU, and gpus is 0; "
                "write gpus: 1, or gpu_memory_gb: 0"
            )
            self._wrong(self.root.at("resources", "gpu_memory_gb"), message)
        self._ends()
        if document.search.method == "grid":
            self._grid(knobs)
        if fault := method_fault(document.search.method):
            self._wrong(self.root.at("search", "method"), f"search.method: {fault}")
        nodes = self.root.at("search", "first").value
        for index, point in enumerate(document.search.first):
            if not isinstance(nodes, list):
                continue
            if repr(point) in map(repr, document.search.first[:index]):
                self._wrong(nodes[index], f"search.first[{index}]: this point is listed twice")
            if isinstance(point, Mapping):
                self._first(point, nodes[index], knobs, points, faulty)

    def _rungs(self) -> None:
        """Check the words of early stopping against the budget and against each other."""
        asha, limit = self.document.asha, self.document.budget.per_trial
        if asha.rescue_fault:
            self._wrong(self.root.at("asha", "rescue"), asha.rescue_fault)
        if {("asha", "grace"), ("asha", "until"), ("budget", "per_trial")} & self.broken:
            return
        grace, end = asha.grace_of(limit), asha.end_of(limit)
        if end > limit:
            message = f"asha.until: {end:g} is more than budget.per_trial ({limit:g})"
            self._wrong(self.root.at("asha", "until"), f"{message}; write `until: {limit:g}`")
        elif grace > end or (grace == end and asha.rescue):
            what = "asha.until" if end < limit else "budget.per_trial"
            how = "more than" if grace > end else "equal to"
            message = f"asha.grace: {grace:g} is {how} {what} ({end:g}), so no trial is stopped"
            message += " early" + (", and none is rescued" if asha.rescue else "")
            self.reader.warnings.append((self.root.at("asha", "grace").mark, message))

    def _ends(self) -> None:
        """Check the words that end a search before its last trial."""
        budget, search, asha = self.document.budget, self.document.search, self.document.asha
        if budget.total is not None and budget.total < budget.per_trial:
            message = f"budget.total: {budget.total:g} is less than one trial's budget"
            self._wrong(self.root.at("budget", "total"), f"{message} ({budget.per_trial:g})")
        most = budget.trials * budget.per_trial
        if budget.total is not None and most < budget.total:
            message = (
                f"budget.total: {budget.trials} trials use at most {most:g}, so it is never "
                "reached; write more budget.trials"
            )
            self.reader.warnings.append((self.root.at("budget", "total").mark, message))
        if search.enough and search.method in PLACED:
            message = "search.enough: it needs a method that learns: tpe, gp, cmaes, nsga2 or auto"
            self._wrong(self.root.at("search", "enough"), message)
        if search.enough and "loss" in search.metric:
            message = f"search.enough: the noise of {search.metric} is not known, an accuracy's is"
            self._wrong(self.root.at("search", "enough"), message)
        early = budget.total is not None or search.target is not None or search.enough
        waiting = []
        if early and asha.mode == "halving":
            waiting.append(("mode", "the rungs of halving wait", "stop"))
        if early and asha.rescue:
            waiting.append(("rescue", "the rescued trials wait", "0"))
        for word, what, instead in waiting:
            message = (
                f"asha.{word}: {what} for all trials, and this search may end before its last "
                f"one; write `{word}: {instead}`, or remove its total, target and enough"
            )
            self._wrong(self.root.at("asha", word), message)

    def _grid(self, knobs: Mapping[str, Domain]) -> None:
        size = 1
        for name, domain in knobs.items():
            if isinstance(domain, Choice | Grid):
                size *= len(domain.values)
            elif isinstance(domain, Range) and domain.step is not None:
                size *= steps(domain) or 1
            elif isinstance(domain, Range):
                message = f"{name}: a grid search needs a `step` here, or {{grid: [...]}}"
                self._wrong(self.root.at("knobs", name), message)
        if size > MAX_GRID:
            message = f"search.method: a grid of {size:.3g} points; larger steps make it smaller"
            self._wrong(self.root.at("search", "method"), message)

    def _first(
        self,
        point: Mapping[str, Value],
        node: Node,
        knobs: Mapping[str, Domain],
        points: Sequence[Mapping[str, Value]],
        faulty: set[str],
    ) -> None:
        """Check one point of `search.first`."""
        assert isinstance(node.value, dict)
        tied = set(points[0]) if points else set()
        known = {n: domain.value for n, domain in knobs.items() if isinstance(domain, Fixed)}
        for name, value in point.items():
            below = node.value[name]
            if name in knobs:
                checked = self.reader.checked(name, value, below, warn=False)
                fit = None if checked is None else fitted(knobs[name], checked)
                if fit is not None:
                    known[name] = fit
                elif checked is not None:
                    message = f"search.first: {name} is never {quoted(checked)} in this space"
                    self._wrong(below, message)
            elif name not in {*tied, *faulty} and ("points",) not in self.broken:
                hint = nearest(name, [*knobs, *tied], "knobs")
                self.reader.problems.append(
                    (below.key, f"search.first: no knob {quoted(name)}; {hint}")
                )
        asked = {name: value for name, value in point.items() if name in tied}
        fitting = [
            p for p in points if all(listed(v, [p[n]]) is not None for n, v in asked.items())
        ]
        if asked and (len(asked) < len(tied) or not fitting):
            self._wrong(
                node, f"search.first: {', '.join(sorted(tied))} are tied; name one of `points`"
            )
        elif asked:
            known |= fitting[0]
        for name in point:
            if name in knobs:
                self._first_is_used(name, knobs, known, node.value[name])

    def _first_is_used(
        self, name: str, knobs: Mapping[str, Domain], known: Mapping[str, Value], node: Node
    ) -> None:
        """Refuse a knob whose condition is false with the other values of its point."""
        asked = [name]
        for knob in asked:
            for other, allowed in knobs[knob].when.items():
                if other in known and not among(known[other], allowed):
                    message = (
                        f"search.first: {name} is not used where {other} is {known[other]}; "
                        f"remove it, or write `{other}: {allowed[0]}`"
                    )
                    self._wrong(node, message)
                    return
                asked += [other] if other in knobs else []

    def _wrong(self, node: Node, message: str) -> None:
        self.reader.problems.append((node.mark, message))
