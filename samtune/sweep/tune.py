"""The rules of `samtune.rungs` behind Ray Tune."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from samtune.record.rows import Verdict


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
        self._new: deque[Trial] = deque()
        self._chosen: deque[Trial] = deque()
        self._ended: deque[Trial] = deque()
        self._resources: Any = None

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        verdict = self._on_report(trial, result)
        # A paused trial gives its worker back; it is served again as a trial of Tune's.
        ends = verdict.decision != "continue"
        return TrialScheduler.STOP if ends else TrialScheduler.CONTINUE

    def on_trial_add(self, controller: Any, trial: Trial) -> None:
        self._on_add(trial)
        # All trials of a stage want the same.
        self._resources = self._resources or trial.placement_group_factory
        trial.placement_group_factory = self._resources
        self._new.append(trial)

    def choose_trial_to_run(self, controller: Any) -> Trial | None:
        """The trial that waits longest, but first those for which no worker was asked yet.

        Tune asks several times a report, and has a free worker take up the trial that it is given.
        Given one that waits for its own worker to start, it would call that off.
        """
        while self._ended and self._ended[0].status in {Trial.TERMINATED, Trial.ERROR}:
            _forget(self._ended.popleft())
        # Ray's own looks at all trials that there have ever been.
        for trials in (self._new, self._chosen):
            while trials and trials[0].status != Trial.PENDING:
                trials.popleft()
        if self._new:
            self._chosen.append(self._new.popleft())
            return self._chosen[-1]
        return self._chosen[0] if self._chosen else None

    def on_trial_complete(self, controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._ended.append(trial)

    def on_trial_error(self, controller: Any, trial: Trial) -> None:
        self._on_error(trial)
        self._ended.append(trial)


def _forget(trial: Trial) -> None:
    """Tune keeps each trial to the end of the sweep; of an ended one, nobody asks for this."""
    trial.run_metadata.last_result = {"done": True}
    # A reference, for which Ray keeps an object.
    trial._default_result_or_future = None
    for each in (
        trial.metric_analysis,
        trial.metric_n_steps,
        trial.config,
        trial.evaluated_params,
    ):
        each.clear()


class ProposalSearcher(Searcher):
    """Puts trials before Ray Tune, and hands back how each ended.

    `propose` answers with a trial's configuration, with None when there is none before another
    trial ends, and with `ProposalSearcher.FINISHED` when there is none any more.
    """

    def __init__(
        self,
        propose: Callable[[str], dict[str, Any] | str | None],
        on_end: Callable[[str, dict[str, Any] | None, bool], None],
    ) -> None:
        super().__init__()
        self._propose = propose
        self._on_end = on_end

    def suggest(self, trial_id: str) -> Any:
        return self._propose(trial_id)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._on_end(trial_id, result, error)

    # Ray saves and restores searchers by pickle; a run is continued from its record instead.
    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...
