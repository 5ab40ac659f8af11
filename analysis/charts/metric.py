"""The metric of a question, as axes show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.board import is_accuracy, score
from analysis.charts.scales import Kind, accuracy_ends, padded


@dataclass(frozen=True)
class Metric:
    """A metric: an accuracy is drawn by the logarithm of its error, others on a plain scale.

    Attributes:
        name: Name of its column.

    """

    name: str

    @classmethod
    def of(cls, trials: pd.DataFrame) -> Metric:
        """Return the metric that the trials of a question were searched by."""
        return cls(str(trials["metric"].iloc[0]))

    @property
    def kind(self) -> Kind:
        """The scale of its axis."""
        return "error" if is_accuracy(self.name) else "linear"

    @property
    def words(self) -> str:
        """Its name and unit."""
        return self.name.replace("_", " ") + (" %" if is_accuracy(self.name) else "")

    def rises(self, trials: pd.DataFrame) -> bool:
        """Return whether larger is better."""
        return bool(trials["mode"].iloc[0] != "min")

    def ends(self, values: pd.Series[Any], worst: float = 0.0) -> tuple[float, float]:
        """Return the ends of an axis for values, which are not all missing.

        Args:
            values: Values to show.
            worst: The share of low values that is left below an accuracy axis.

        """
        known = values.dropna().astype(float)
        low, high = float(known.quantile(worst)), float(known.max())
        if is_accuracy(self.name):
            return accuracy_ends(low, high)
        return padded(float(known.min()), high)

    def shown(self, value: Any) -> str:
        """Return a value as people read it, with its unit."""
        return score(value, self.name) + (" %" if is_accuracy(self.name) else "")
