"""The rules of `samtune.rungs` behind Ray Tune."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from samtune.rungs import Verdict


class RungScheduler(FIFOScheduler):
    """Hands each report to `on_report`, which commits it and answers with the verdict."""

    def __init__(
        self,
        on_add: Callable[[Trial], None],
        on_report: Callable[[Trial, Mapping[str, Any]], Verdict],
        on_error: Callable[[Trial], None],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._on_add = on_add
        self._on_report = on_report
        self._on_error = on_error

    def on_trial_add(self, controller: Any, trial: Trial) -> None:
        self._on_add(trial)

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        verdict = self._on_report(trial, result)
        # A paused trial gives its worker back; it is served again as a trial of Tune's.
        ends = verdict.decision != "continue"
        return TrialScheduler.STOP if ends else TrialScheduler.CONTINUE

    def on_trial_error(self, controller: Any, trial: Trial) -> None:
        self._on_error(trial)
