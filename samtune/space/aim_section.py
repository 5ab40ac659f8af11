"""The check of what a search improves: its metrics and its constraints."""

from __future__ import annotations

from collections.abc import Mapping

from samtune.messages import nearest, quoted
from samtune.space.aims import COSTS, Limit
from samtune.space.knob_reader import KnobReader
from samtune.space.schema import Document
from samtune.space.search_words import PLACED
from samtune.space.strict_yaml import Node
from samtune.space.word_types import NAME

_MORE = {"max": "higher", "min": "lower"}
# What each kind of budget counts, so that all full trials have the same of it.
_COUNTED = {"compute": "see", "seconds": "train_s"}


class AimSection:
    """The words metric, mode, metrics and constraints, and what they allow.

    Args:
        reader: Gathers the problems and warnings.
        root: The space as it is written.
        document: The space as it was read.
        metrics: What the trainable reports, each with its better end; None or empty for any.
    """

    def __init__(
        self,
        reader: KnobReader,
        root: Node,
        document: Document,
        metrics: Mapping[str, str] | None,
    ) -> None:
        self._reader = reader
        self._root = root
        self._document = document
        self._declared = metrics or {}
        self._better = {**self._declared, **dict.fromkeys(COSTS, "min")}

    def check(self) -> None:
        """Add to the reader's problems and warnings."""
        search = self._document.search
        if search.metrics is None:
            self._one(search.metric, search.mode)
        for name, mode in (search.metrics or {}).items():
            path = ("metrics", name)
            self._name(path, name)
            if mode != self._better.get(name, mode):
                better = self._better[name]
                message = f"{name} is the better the {_MORE[better]} it is"
                self._wrong(path, f"{message}; write `{name}: {better}`")
        for name, limit in (search.constraints or {}).items():
            self._name(("constraints", name), name)
            self._limit(name, limit)
        for word in ("metric", "mode"):
            if search.metrics and self._root.at("search", word) is not self._root.at("search"):
                message = "it is the first of search.metrics; remove one of the two"
                self._wrong((word,), message)
        self._what_learns()
        self._what_differs()

    def _one(self, metric: str, mode: str) -> None:
        """Check the one metric of a search, which is a score and not a cost."""
        better = self._declared
        if metric.startswith("test_"):
            self._wrong(
                ("metric",), f"{metric} would choose on the test split; name a val_ metric"
            )
        if better and metric in better and better[metric] != mode:
            message = f"{metric} is the better the {_MORE[better[metric]]} it is"
            self._wrong(("mode",), f"{message}; write `mode: {better[metric]}`")
        elif better and metric in COSTS:
            first = next(iter(better))
            message = f"{metric} is a cost, and comes after a score"
            self._wrong(
                ("metric",),
                f"{message}; write `metrics: {{{first}: {better[first]}, {metric}: min}}`",
            )
        elif better and metric not in better:
            self._wrong(("metric",), self._unknown(metric, better))

    def _name(self, path: tuple[str, str], name: str) -> None:
        """Check the name of one of several metrics, or of a limit."""
        if name.startswith("test_"):
            self._wrong(path, f"{name} would choose on the test split; name a val_ metric")
        elif not NAME.fullmatch(name):
            self._wrong(path, f"{quoted(name)} is no name for a metric; use letters, digits and _")
        elif self._declared and name not in self._better:
            self._wrong(path, self._unknown(name, self._better))

    def _unknown(self, name: str, known: Mapping[str, str]) -> str:
        """Return why no report has a metric of this name."""
        if name.removesuffix("_averaged") in self._declared:
            return f"{quoted(name)} is not reported; it takes `task: {{average: ema}}`, or swa"
        return f"{quoted(name)} is not reported; {nearest(name, known)}"

    def _limit(self, name: str, limit: Limit) -> None:
        """Refuse a limit on the better side, which the best trials would miss."""
        named = self._document.search.metrics or {}
        better = self._better.get(name, named.get(name))
        if better == "max" and not isinstance(limit, dict):
            message = (
                f"{name} is the better the higher it is; write `{name}: {{min: {limit:.10g}}}`"
            )
            self._wrong(("constraints", name), message)
        elif better == "min" and isinstance(limit, dict):
            message = f"{name} is the better the lower it is; write `{name}: {limit['min']:.10g}`"
            self._wrong(("constraints", name), message)

    def _what_learns(self) -> None:
        """Refuse a method and an end that know one metric alone."""
        search = self._document.search
        if not search.aims.several and not search.constraints:
            return
        if search.method == "cmaes":
            message = "cmaes learns from one metric without constraints; write tpe, gp or nsga2"
            self._wrong(("method",), message)
        if search.enough and search.method not in PLACED:
            self._wrong(("enough",), "it needs one metric, and no constraints")

    def _what_differs(self) -> None:
        """Warn of an aim that is equal for all full trials."""
        budget, search = self._document.budget, self._document.search
        counted = _COUNTED.get(budget.kind)
        if counted in (search.metrics or {}):
            message = (
                f"search.metrics.{counted}: a budget of kind {budget.kind} gives each full trial "
                "the same; with `budget: {kind: epochs}` they differ"
            )
            self._warn(("metrics", str(counted)), message)
        if not self._document.resources.gpus:
            for word in ("metrics", "constraints"):
                if "peak_gpu_mb" in (getattr(search, word) or {}):
                    message = f"search.{word}.peak_gpu_mb: it is 0 where resources.gpus is 0"
                    self._warn((word, "peak_gpu_mb"), message)

    def _wrong(self, path: tuple[str, ...], message: str) -> None:
        node = self._root.at("search", *path)
        self._reader.problems.append((node.mark, f"search.{'.'.join(path)}: {message}"))

    def _warn(self, path: tuple[str, ...], message: str) -> None:
        self._reader.warnings.append((self._root.at("search", *path).mark, message))
