"""The study that a method learns from, in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from samtune.search.samplers import Samplers
from samtune.space.aims import Aims

# It warns of samplers that draw a knob by itself or slowly, which a user cannot change.
optuna.logging.set_verbosity(optuna.logging.ERROR)


DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}


class LearningStudy:
    """An Optuna study in which each trial is found by samtune's own trial number.

    Args:
        samplers: Its samplers, one for each trial.
        aims: What it improves; the trials are told with its constraints.
    """

    def __init__(self, samplers: Samplers, aims: Aims) -> None:
        self.study = optuna.create_study(
            directions=[DIRECTIONS[mode] for mode in aims.metrics.values()]
        )
        self._aims = aims
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

    def tell(
        self, number: int, state: str, values: Mapping[int, float], last: Mapping[str, float]
    ) -> FrozenTrial | None:
        """Record how a trial ended.

        A pruned trial is PRUNED with its last value. So is a paused one, which is requested again
        if it continues. A diverged one is PRUNED without a value, which TPE ranks below every
        other trial, and the other methods pass over. A trial with an error is FAIL and has no
        influence.

        Of several metrics a pruned trial has none in Optuna: those that grow with the budget, as
        `see` does, would look better than at a full trial. A completed trial counts as diverged
        if one of its metrics or constraints is not finite.

        Args:
            number: The trial.
            state: How it ended.
            values: Its reports of the first metric by epoch.
            last: All metrics of its last report; needed for several metrics and for constraints.

        Returns:
            Optuna's row of the trial, or None for one that was pruned after a pause: its pause is
            on record already.
        """
        trial = self._open.pop(number, None)
        if trial is None:
            return None
        found = (
            self._aims.values(last)
            if self._aims.several
            else [values[e] for e in sorted(values)[-1:]]
        )
        excess = self._aims.excess({} if state == "diverged" else last)
        if state == "completed" and not all(map(math.isfinite, [*found, *excess.values()])):
            state = "diverged"
        if state in {"completed", "pruned", "paused"} and not self._aims.several:
            for epoch, value in sorted(values.items()):
                trial.report(value, epoch)
        if state in {"completed", "pruned", "paused", "diverged"}:
            for name, over in excess.items():
                trial.set_constraint(name, over)
        match state:
            case "completed":
                return self.study.tell(trial, found)
            case "pruned" | "paused" | "diverged":
                return self.study.tell(trial, state=TrialState.PRUNED)
        return self.study.tell(trial, state=TrialState.FAIL)
