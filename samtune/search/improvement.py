"""An estimate of how much a search may still improve on its best trial."""

from __future__ import annotations

import warnings

import optuna
from optuna.terminator import RegretBoundEvaluator

from samtune.search.learning import LearningStudy


def possible_improvement(learning: LearningStudy, least: int, seed: int) -> float:
    """Return an upper bound of the improvement that is still possible, in units of the metric.

    It is from a Gaussian process of the better half of the completed trials: the highest upper
    confidence bound anywhere, minus the highest lower bound of a trial (Makarova et al., AutoML
    2022, arXiv 2104.08166).

    Args:
        learning: The study of the search.
        least: With fewer completed trials the bound is infinite.
        seed: Of the points that are looked at.
    """
    study = learning.study
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = RegretBoundEvaluator(min_n_trials=least, seed=seed)
        return float(evaluator.evaluate(study.get_trials(deepcopy=False), study.direction))
