"""The study that a method learns from, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from samtune.search.samplers import Samplers

# Its warnings are about what a sampler draws alone or more slowly, which nobody asked for.
optuna.logging.set_verbosity(optuna.logging.ERROR)


DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}


class LearningStudy:
    """An Optuna study in which each trial is found by samtune's own trial number.

    Args:
        samplers: Its samplers, one for each trial.
        mode: `max` or `min`.
    """

    def __init__(self, samplers: Samplers, mode: Literal["max", "min"]) -> None:
        self.study = optuna.create_study(direction=DIRECTIONS[mode])
        self._samplers = samplers
        self._open: dict[int, optuna.Trial] = {}

    def ask(self, number: int, known: Mapping[str, float]) -> optuna.Trial:
        """Return a trial that suggests the known values, and draws the others on request."""
        self.study.sampler = self._samplers.sampler(number, known)
        trial = self._open[number] = self.study.ask()
        return trial

    @property
    def completed(self) -> int:
        """The number of trials that completed."""
        return len(self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))

    def tell(self, number: int, state: str, values: Mapping[int, float]) -> FrozenTrial | None:
        """Record how a trial ended; `values` are its reports by epoch.

        A pruned trial is PRUNED with its last value. So is a paused one, which is requested again
        if it continues. A diverged one is PRUNED without a value, which TPE ranks below every
        other trial, and the other methods pass over. A trial with an error is FAIL and has no
        influence.

        Returns:
            Optuna's row of the trial, or None for one that was pruned after a pause: its pause is
            on record already.
        """
        trial = self._open.pop(number, None)
        if trial is None:
            return None
        if state in {"completed", "pruned", "paused"}:
            for epoch, value in sorted(values.items()):
                trial.report(value, epoch)
        match state:
            case "completed":
                return self.study.tell(trial, values[max(values)])
            case "pruned" | "paused" | "diverged":
                return self.study.tell(trial, state=TrialState.PRUNED)
        return self.study.tell(trial, state=TrialState.FAIL)
