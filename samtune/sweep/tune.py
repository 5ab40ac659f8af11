"""The sweep as Ray Tune sees it: a searcher, a scheduler and a stopper around the driver.

Each attempt at a trial is a trial of Tune. When the attempt ends, Tune's trial is kept, and its
worker waits in its last report until another attempt needs a worker. So all stages of a command
use the same workers, also when trials must wait for the end of others.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from samtune.cluster.ray_internals import forget, was_killed_for_memory
from samtune.cluster.start import Cluster
from samtune.cluster.worker import run_trial

# How long a trial waits for a worker of its own before it takes over a waiting one.
_LONG_WAIT_S = 30.0


class Attempts(Protocol):
    """The attempts that Tune runs, and the receiver of their events, by Tune's trial id."""

    @property
    def is_over(self) -> bool:
        """True if the sweep has ended or has to stop."""

    def propose(self, tune_id: str) -> dict[str, Any] | None:
        """Start the next attempt: its configuration, or None while there is none."""

    def reported(self, tune_id: str, result: Mapping[str, Any]) -> bool:
        """Take a report, and return whether the attempt continues."""

    def failed(self, tune_id: str, words: str, *, of_memory: bool) -> None:
        """Handle the death of an attempt's worker; `words` is Ray's message about it."""

    def ended(self, tune_id: str, result: Mapping[str, Any] | None, *, error: bool) -> None:
        """Handle the end of an attempt that Tune has ended."""


def run(attempts: Attempts, on: Cluster, name: str) -> None:
    """Run attempts until there are no more, as many at a time as the cluster has slots."""
    # Otherwise Tune waits until a trial's worker runs before it asks for the next trial.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(on.slots)
    scheduler = _Scheduler(attempts)
    tune.Tuner(
        tune.with_resources(run_trial, on.per_trial),
        tune_config=tune.TuneConfig(
            # The searcher says when there are no more.
            num_samples=-1,
            reuse_actors=True,
            search_alg=_Searcher(attempts, scheduler),
            scheduler=scheduler,
            trial_dirname_creator=_folder_name,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(on.scratch / "tune"),
            verbose=0,
            # Tune's own choice for a notebook clears the cell.
            progress_reporter=tune.CLIReporter(),
            stop=_Stopper(attempts),
        ),
    ).fit()


class _NotPickled:
    """Base of all three: Ray pickles them for a restore that samtune never uses."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class _Scheduler(_NotPickled, FIFOScheduler):
    """Tune's scheduler: passes reports on, and gives workers of ended attempts to new ones."""

    def __init__(self, attempts: Attempts) -> None:
        # mypy takes the constructor of Ray's class for one of ours.
        super().__init__()  # type: ignore[no-untyped-call]
        self._attempts = attempts
        # Tune's trials that wait for a worker, and those whose attempts have ended.
        self._waiting: deque[Trial] = deque()
        self._lenders: deque[Trial] = deque()
        self._waits_since: dict[str, float] = {}
        self._controller: Any = None
        self._done: deque[Trial] = deque()
        self._resources: Any = None
        self.has_lent = False

    def on_trial_add(self, controller: Any, trial: Trial) -> None:
        """Give the trial to a waiting worker, if there is one."""
        # All trials want the same, and equal objects would be compared for each of them.
        self._resources = self._resources or trial.placement_group_factory
        trial.placement_group_factory = self._resources
        self._waiting.append(trial)
        self._waits_since[trial.trial_id] = time.monotonic()
        self._controller = controller
        while self._done and self._done[0].status in {Trial.TERMINATED, Trial.ERROR}:
            ended = self._done.popleft()
            self._waits_since.pop(ended.trial_id, None)
            forget(ended)
        self._lend_to(trial)

    def relieve(self) -> None:
        """Give a trial that has waited long for a worker of its own to a waiting worker.

        Its own worker may never start, because the node may be lost.
        """
        while self._waiting and self._waiting[0].status != Trial.PENDING:
            self._waiting.popleft()
        if not (self._waiting and self._lenders) or self.has_lent:
            return
        oldest = self._waiting[0]
        if time.monotonic() - self._waits_since[oldest.trial_id] > _LONG_WAIT_S:
            self._waiting.rotate(-1)
            self._lend_to(oldest)

    def _lend_to(self, trial: Trial) -> None:
        """Free a waiting worker, if there is one.

        Tune gives it to the newest trial, which it looks at next. So `trial` must be the newest.
        """
        lender = self._lender_for(trial)
        if lender is not None:
            self.has_lent = True
            self._controller.stop_trial(lender)

    def _lender_for(self, trial: Trial) -> Trial | None:
        """Choose the worker that ran an earlier attempt at the same trial, or any other.

        The other workers may not touch the trial's checkpoints while it holds them.
        """
        folder = trial.config["trial"]["checkpoint_dir"]
        same = (each for each in self._lenders if each.config["trial"]["checkpoint_dir"] == folder)
        lender = next(same, self._lenders[0] if self._lenders else None)
        if lender is not None:
            self._lenders.remove(lender)
        return lender

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Keep the trial of an attempt that has ended: nothing happens to it for now."""
        if self._attempts.reported(trial.trial_id, result):
            return TrialScheduler.CONTINUE
        self._lenders.append(trial)
        return TrialScheduler.NOOP

    def choose_trial_to_run(self, controller: Any) -> Trial | None:
        """Return the newest trial that waits for a worker.

        A free worker takes the trial that this method returns. Older trials have already requested
        workers of their own, and Tune would cancel the start of these.
        """
        self.has_lent = False
        while self._waiting and self._waiting[-1].status != Trial.PENDING:
            self._waiting.pop()
        return self._waiting[-1] if self._waiting else None

    def on_trial_complete(self, controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Note that Tune no longer needs this trial."""
        self._done.append(trial)

    def on_trial_error(self, controller: Any, trial: Trial) -> None:
        """Pass on that a worker died."""
        self._done.append(trial)
        if trial in self._lenders:
            self._lenders.remove(trial)
        # `Trial.get_error` looks where the file is copied to later.
        file = Path(trial.error_file or "")
        words = file.read_text(errors="replace").strip() if file.is_file() else ""
        self._attempts.failed(trial.trial_id, words, of_memory=was_killed_for_memory(trial))


class _Searcher(_NotPickled, Searcher):
    """Tune's source of trials: the next attempts of the sweep."""

    def __init__(self, attempts: Attempts, scheduler: _Scheduler) -> None:
        super().__init__()
        self._attempts = attempts
        self._scheduler = scheduler

    def suggest(self, trial_id: str) -> Any:
        """Return an attempt's configuration, None for now, or FINISHED for good."""
        if self._attempts.is_over:
            return Searcher.FINISHED
        self._scheduler.relieve()
        # Tune keeps one free worker at a time: the next is lent when this one is taken.
        return None if self._scheduler.has_lent else self._attempts.propose(trial_id)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass on the end of an attempt."""
        self._attempts.ended(trial_id, result, error=error)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: a run is continued from its record."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a run is continued from its record."""


class _Stopper(_NotPickled, tune.Stopper):
    """A stopper that ends Tune's loop, and all its workers, when the sweep is over."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Return whether the sweep is over."""
        return self._attempts.is_over


def _folder_name(trial: Trial) -> str:
    return str(trial.trial_id)
