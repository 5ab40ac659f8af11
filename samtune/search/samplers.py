"""The Optuna sampler of each method that learns, made anew for each question.

A sampler that is made anew has no memory but the study. It is seeded by the search's seed and the
trial's number, so a study that is rebuilt from the record proposes what the first one would have.
Optuna's own samplers keep what they learn in the study: TPE and GP compute it from the trials, and
CMA-ES and NSGA-II leave notes there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from samtune.space.knobs import Choice, Domain
from samtune.space.sampler import own_sampler

# A Gaussian process takes time by the cube of the number of trials.
_MOST_FOR_GP = 250
# These compute what they know from the trials of the study, and leave no notes there.
_READERS = ("tpe", "gp")


class Samplers:
    """The samplers of one search.

    Args:
        method: `tpe`, `gp`, `cmaes`, `nsga2`, `auto`, or the path of a function or class of the
            user's.
        seed: The seed of the search.
        startup: The number of ended trials from which a sampler learns; 0 for Optuna's default.
        domains: What is searched, which decides for `auto`.

    Raises:
        SpaceError: The user's sampler cannot be imported.
    """

    def __init__(
        self, method: str, seed: int, startup: int, domains: Iterable[Domain] = ()
    ) -> None:
        self._method = method
        self._seed = seed
        self._startup: dict[str, Any] = {"n_startup_trials": startup} if startup else {}
        self._only_numbers = not any(isinstance(d, Choice) or d.when for d in domains)
        self._own: Callable[..., Any] | None = own_sampler(method) if ":" in method else None

    def method(self, number: int) -> str:
        """Return the method of a trial: for `auto` gp in a search of numbers, else tpe."""
        if self._method != "auto":
            return self._method
        return "gp" if self._only_numbers and number < _MOST_FOR_GP else "tpe"

    def sampler(self, number: int, known: Mapping[str, float]) -> BaseSampler:
        """Return the sampler for the trial of this number, which suggests the known values."""
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        method = self.method(number)
        return Prescribing(self._drawing(method, seed), known, method not in _READERS)

    def _drawing(self, method: str, seed: int) -> BaseSampler:
        match method:
            case "tpe":
                return TPESampler(seed=seed, **self._startup)
            case "gp":
                return GPSampler(seed=seed, warn_independent_sampling=False, **self._startup)
            case "cmaes":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    return CmaEsSampler(
                        seed=seed,
                        independent_sampler=TPESampler(seed=seed, **self._startup),
                        warn_independent_sampling=False,
                        consider_pruned_trials=True,
                        **self._startup,
                    )
            case "nsga2":
                # As many as begin the search are a generation.
                size = (
                    {"population_size": max(2, *self._startup.values())} if self._startup else {}
                )
                return NSGAIISampler(seed=seed, **size)
        assert self._own is not None, "a method that is no word is a path"
        sampler: BaseSampler = self._own(seed=seed)
        return sampler


class Prescribing(BaseSampler):
    """A sampler that suggests values which are known, and lets another one draw the others.

    Optuna does not ask a sampler for a trial whose values were enqueued, so CMA-ES, NSGA-II and
    others would leave nothing in the study when a trial of the record is repeated.

    Args:
        drawing: The sampler that draws.
        known: The known values, as Optuna's numbers.
        notes: Whether the sampler leaves notes in the study when it draws, and so has to draw
            although all values are known.
    """

    def __init__(self, drawing: BaseSampler, known: Mapping[str, float], notes: bool) -> None:
        self._drawing = drawing
        self._known = known
        self._notes = notes

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return what the drawing sampler draws together."""
        return self._drawing.infer_relative_search_space(study, trial)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Return what is drawn together, with the known values in place of drawn ones."""
        known = {name: value for name, value in self._known.items() if name in search_space}
        if len(known) == len(search_space) and not self._notes:
            return known
        return self._drawing.sample_relative(study, trial, search_space) | known

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the known value of one knob, or draw it."""
        if param_name in self._known:
            return self._known[param_name]
        return self._drawing.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Tell the drawing sampler that a trial starts."""
        self._drawing.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Tell the drawing sampler that a trial ended."""
        self._drawing.after_trial(study, trial, state, values)
