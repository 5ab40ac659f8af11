"""The metrics that a search improves, and the limits that its winner keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["max", "min"]
Limit = float | dict[Literal["min"], float]
"""The most that is allowed of a metric, or as `{"min": x}` the least."""

COSTS = ("see", "train_s", "s_per_step", "eval_s", "data_s", "peak_gpu_mb")
"""The costs that samtune's own trainables report beside their scores; less is better."""
_MADE_OF = {"s_per_step": ("train_s", "step")}


@dataclass(frozen=True)
class Aims:
    """The aims of a search.

    Attributes:
        metrics: The better end of each metric. The first is the one that rungs, the choice of the
            winner and verdicts judge.
        limits: The limits; the metric of each may be one of `metrics` or another.
    """

    metrics: Mapping[str, Mode]
    limits: Mapping[str, Limit]

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Aims:
        """Return the aims of a study's settings on record; one of an older samtune has none."""
        return cls(settings.get("aims", {}), settings.get("constraints", {}))

    @property
    def several(self) -> bool:
        """True if there is more than one metric."""
        return len(self.metrics) > 1

    @property
    def reported(self) -> tuple[str, ...]:
        """The metrics that every report must have, beside the first."""
        first, *others = self.metrics
        names = [part for name in (*others, *self.limits) for part in _MADE_OF.get(name, (name,))]
        return tuple(name for name in dict.fromkeys(names) if name != first)

    def values(self, report: Mapping[str, float]) -> list[float]:
        """Return the metrics of a report in their order, NaN for one that it lacks."""
        return [measured(name, report) for name in self.metrics]

    def excess(self, report: Mapping[str, float]) -> dict[str, float]:
        """Return by how much a report misses each limit: at most 0 where it keeps the limit.

        A limit on a metric that is not finite is missed by infinity.
        """
        return {name: _over(measured(name, report), limit) for name, limit in self.limits.items()}

    def keeps(self, report: Mapping[str, float]) -> bool:
        """Return whether a report keeps all limits."""
        return all(over <= 0 for over in self.excess(report).values())


def measured(name: str, report: Mapping[str, float]) -> float:
    """Return a metric of a report; `s_per_step` is made of the training's time and its steps."""
    if name != "s_per_step" or name in report:
        return report.get(name, math.nan)
    steps = report.get("step", 0)
    return report.get("train_s", math.nan) / steps if steps else math.nan


def _over(value: float, limit: Limit) -> float:
    if not math.isfinite(value):
        return math.inf
    return limit["min"] - value if isinstance(limit, dict) else value - limit


def metrics_text(metrics: Mapping[str, str]) -> str:
    """Return `val_acc max, see min`."""
    return ", ".join(f"{name} {mode}" for name, mode in metrics.items())


def limits_text(limits: Mapping[str, Limit]) -> str:
    """Return `peak_gpu_mb <= 20000, val_acc >= 0.9`."""
    return ", ".join(
        f"{name} >= {limit['min']:.10g}" if isinstance(limit, dict) else f"{name} <= {limit:.10g}"
        for name, limit in limits.items()
    )
