"""Importance of knobs: how much the best trials differ from the others in each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

# The share of trials that count as the best, and the fewest trials that say anything.
_BEST = 0.25
_FEWEST = 10


def importance(
    knobs: Sequence[Mapping[str, Any]], values: Sequence[float], maximise: bool
) -> dict[str, float]:
    """Return the importance of each knob, shares of 1, by PED-ANOVA (Watanabe et al., 2023).

    Args:
        knobs: The knobs of each trial. Those that some trial lacks, or that never change, are
            left out.
        values: The score of each trial, finite.
        maximise: Whether larger is better.

    Returns:
        Nothing for fewer than ten trials, or where all trials score the same.
    """
    if len(knobs) < _FEWEST or len(set(values)) == 1:
        return {}
    columns = {name: [trial.get(name) for trial in knobs] for name in knobs[0]}
    spaces = {
        name: _distribution(column)
        for name, column in columns.items()
        if None not in column and len(set(column)) > 1
    }
    if not spaces:
        return {}
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize" if maximise else "minimize")
        study.add_trials(
            optuna.trial.create_trial(
                params={name: columns[name][k] for name in spaces},
                distributions=spaces,
                value=value,
            )
            for k, value in enumerate(values)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = PedAnovaImportanceEvaluator(target_quantile=_BEST)
            return get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(before)


def _distribution(values: Sequence[Any]) -> BaseDistribution:
    numbers = all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    if not numbers or len(set(values)) <= 5:
        return CategoricalDistribution(sorted(set(values), key=str))
    low, high = float(min(values)), float(max(values))
    return FloatDistribution(low, high, log=low > 0 and high / low >= 10)
