"""The study that TPE learns from, in memory.

Each question to the sampler is seeded by the search's seed and the trial's number alone. A study
that is rebuilt from the record therefore goes on as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

optuna.logging.set_verbosity(optuna.logging.WARNING)


DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}


class TpeStudy:
    """An Optuna study in which each trial is found by samtune's own trial number.

    Args:
        seed: The seed of the search.
        mode: `max` or `min`.
        startup: The number of ended trials from which TPE begins; 0 for Optuna's default.
    """

    def __init__(self, seed: int, mode: Literal["max", "min"], startup: int) -> None:
        self.study = optuna.create_study(direction=DIRECTIONS[mode])
        self._seed = seed
        self._startup: dict[str, Any] = {"n_startup_trials": startup} if startup else {}
        self._open: dict[int, optuna.Trial] = {}

    def ask(self, number: int, known: Mapping[str, float]) -> optuna.Trial:
        """Return a trial that suggests the known values, and draws the others on request."""
        seed = np.random.SeedSequence([self._seed, number]).generate_state(1)[0]
        self.study.sampler = optuna.samplers.TPESampler(seed=int(seed), **self._startup)
        self.study.enqueue_trial(dict(known))
        trial = self._open[number] = self.study.ask()
        return trial

    def tell(self, number: int, state: str, values: Mapping[int, float]) -> FrozenTrial | None:
        """Record how a trial ended; `values` are its reports by epoch.

        A pruned trial is PRUNED with its last value. So is a paused one, which is requested again
        if it continues. A diverged one is PRUNED without a value, which TPE ranks below every
        other trial. A trial with an error is FAIL and has no influence.

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
