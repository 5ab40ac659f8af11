"""From spaces to finished trials: Ray Tune runs them, the record keeps what they did.

`run_stage` drives a stage. Each fault is met in one way, from the record: a trial whose worker
died, stalled or was stopped goes back to its stage and is served again as a new trial of Tune's,
which finds its checkpoint. Tune's own retries, snapshots and restore are not used.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import time
import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.experiment import Trial

from samtune.cluster.nodes import OomKills, death
from samtune.cluster.shipping import by_value, import_path
from samtune.cluster.start import Cluster
from samtune.cluster.worker import run_trial
from samtune.messages import printable
from samtune.record.folder import RunError
from samtune.record.outcome import FAILURES, End, is_final, shortly
from samtune.record.provenance import hostname_hash
from samtune.record.record import Record
from samtune.record.rows import TrialRow, Verdict, canonical
from samtune.sweep.attempt import Attempt, sentence, trial_name
from samtune.sweep.observers import Observers
from samtune.sweep.progress import Progress, View
from samtune.sweep.stages import StagePlan, has_work
from samtune.sweep.stop import Stop, Watch
from samtune.sweep.tune import ProposalSearcher, RungScheduler

# A mistake that fails every trial should not be paid for by every trial.
_MOST_ERRORS_IN_A_ROW = 5
# What SQLite raises when the record itself fails, and not the values of one report.
_ERRORS_OF_THE_RECORD = (sqlite3.OperationalError, sqlite3.DatabaseError)
# How long a trial may be silent where its space leaves that to us: this before any has reported,
# and then a multiple of the longest silence that ended in a report, but never below the last.
_FIRST_SILENCE_S = 3600.0
_SILENCES = 10
_SHORTEST_SILENCE_S = 600.0


def run_stage(
    plan: StagePlan,
    record: Record,
    on: Cluster,
    view: View,
    stop: Stop,
    observers: Observers | None = None,
) -> Progress:
    """Runs a stage to its end or to a request to stop; the caller holds the record's lock.

    Raises RunError (exit code 5) when Ray itself fails; the stage can be resumed then.
    """
    if not has_work(plan):
        return plan.progress
    watch = Watch(record.folder, stop)
    driver = _Driver(plan, record, view, stop, watch, observers, on)
    record.add_event(f"{plan.progress.stage} started", f"{on.slots} slots")
    tuner = tune.Tuner(
        tune.with_resources(run_trial, on.per_trial),
        tune_config=tune.TuneConfig(
            # The searcher says when there are no more: an interrupted trial comes twice.
            num_samples=-1,
            max_concurrent_trials=on.slots,
            reuse_actors=True,
            search_alg=ProposalSearcher(driver.propose, driver.ended),
            scheduler=RungScheduler(driver.added, driver.reported, driver.failed),
            trial_dirname_creator=_folder_name,
        ),
        run_config=tune.RunConfig(
            name=plan.progress.stage,
            storage_path=str(on.scratch / "tune"),
            verbose=0,
            # No callback: to count those for statistics that nobody is sent, Ray would import
            # every experiment tracker that is installed.
            stop=_EachStep(driver, stop),
        ),
    )
    failed = True
    try:
        with watch.writing():
            tuner.fit()
        failed = False
    except RayError as error:
        raise RunError(
            f"Ray failed ({str(error).strip().splitlines()[0]}); all of it is on record: "
            f"`samtune resume {record.name}` goes on",
            exit_code=5,
        ) from error
    finally:
        driver.close(cut=failed or stop.requested)
    return plan.progress


def _told(trial: Trial) -> str:
    """What Ray says of a worker's death. `Trial.get_error` looks where it is copied to later."""
    try:
        return Path(trial.error_file or "").read_text().strip() or "the worker died"
    except OSError:
        return "the worker died"


def _folder_name(trial: Trial) -> str:
    return str(trial.trial_id)


class _Driver:
    """Between Ray Tune and the record: proposes, commits reports, judges them, ends trials."""

    def __init__(
        self,
        plan: StagePlan,
        record: Record,
        view: View,
        stop: Stop,
        watch: Watch,
        observers: Observers | None = None,
        on: Cluster | None = None,
    ) -> None:
        self._plan = plan
        self._record = record
        self._view = view
        self._stop = stop
        self._watch = watch
        self._observers = observers or Observers(record, [], view.event)
        self._on = on
        self._oom_kills = OomKills()
        self._import_path = import_path()
        self._folder = os.getcwd()
        self._warnings: set[str] = set()
        self._live: dict[str, Attempt] = {}
        self._errors_in_a_row = 0
        self._longest_silence = 0.0

    # Ray pickles its scheduler, searcher and stopper for a restore that samtune never asks for.
    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()

    def propose(self, trial_id: str) -> dict[str, Any] | str | None:
        """A trial's configuration for Tune, or what `ProposalSearcher` answers without one."""
        config = None
        with self._watch.writing():
            self._watch.room()
            trial = None if self._stop.requested else self._plan.next()
            if trial is not None:
                config = self._start(trial_id, trial)
        # One that runs may fail and come again, or make a paused one worth going on with.
        wait = self._live and not self._stop.requested
        return config if config or wait else ProposalSearcher.FINISHED

    def _start(self, trial_id: str, trial: TrialRow) -> dict[str, Any]:
        attempt, permit = self._record.start_attempt(trial)
        live = self._live[trial_id] = Attempt(trial, attempt, n_val=trial.facts.get("n_val"))
        if attempt:
            live.recall(self._record)
        if trial.state == "paused":
            self._plan.progress.count("paused", -1)
        self._plan.progress.count("running", 1)
        self._observers.started(trial, attempt)
        config = dataclasses.replace(trial.config, test_permit=permit, used=live.past.used)
        return {
            "trial": config.to_dict(),
            "path": self._import_path,
            "by_value": by_value(trial.config.trainable),
            "folder": self._folder,
            "host": hostname_hash(),
            "gpu_memory_gb": self._plan.spaces[trial.study].resources.gpu_memory_gb,
            "storage": self._on and self._on.storage,
            "run": self._record.name,
            "last_epoch": max(live.earlier, default=None),
        }

    def added(self, tune_trial: Trial) -> None:
        """The trial waits for a worker."""
        self._live[tune_trial.trial_id].tune_trial = tune_trial

    def reported(self, tune_trial: Trial, result: Mapping[str, Any]) -> Verdict:
        """Commits a report, has it judged and commits the verdict; anything but `continue` ends
        the attempt. Reports that come twice, late or out of order change nothing."""
        verdict = Verdict("stop")
        with self._watch.writing():
            live = self._live.get(tune_trial.trial_id)
            if live is None or live.end is not None:
                trial = live.trial.trial if live else None
                self._record.add_event("ignored report", "its trial had ended", trial)
            elif "warning" in result:
                verdict = Verdict("continue")
                self._warned(live, str(result["warning"]))
            elif "error" in result:
                verdict = self._raised(live, result)
            else:
                self._heard(live)
                self._watch.room()
                verdict = self._taken(live, result["report"])
        return verdict

    def _taken(self, live: Attempt, report: str) -> Verdict:
        """Commit a report; one that cannot be recorded is an error of its own trial alone."""
        try:
            return self._committed(live, json.loads(report))
        except Exception as error:
            if isinstance(error, OSError) or type(error) in _ERRORS_OF_THE_RECORD:
                raise
            self._record.add_event("error", traceback.format_exc(), live.trial.trial)
            why = f"its report cannot be recorded: {type(error).__name__}: {error}"
            live.end, live.again = End("error", printable(why), "error"), False
            return Verdict("stop")

    def _warned(self, live: Attempt, warning: str) -> None:
        self._record.add_event("warning", warning, live.trial.trial)
        if warning not in self._warnings:
            self._warnings.add(warning)
            self._view.event(f"{trial_name(live.trial, self._plan.progress)}  {warning}")

    def _raised(self, live: Attempt, result: Mapping[str, Any]) -> Verdict:
        told = printable(" ".join(str(result["error"]).split()))
        live.end = End("error", told, result["cause"])
        live.again = bool(result["again"])
        if result["cause"] == "disk_full":
            live.end = End("cancelled", told, "disk_full")
            self._stop.request("disk full", told)
        self._record.add_event("error", printable(str(result["traceback"])), live.trial.trial)
        # It raises once more, and its worker is not used again, where that may be broken.
        return Verdict("continue" if result["raises"] else "stop")

    def _committed(self, live: Attempt, report: Mapping[str, Any]) -> Verdict:
        trial, epoch, metrics = live.trial, report["epoch"], report["metrics"]
        if epoch in live.own or epoch < max(live.own, default=epoch):
            self._record.add_event("ignored report", f"epoch {epoch} once more", trial.trial)
            return Verdict("continue")
        live.own.add(epoch)
        for warning in report.get("warnings", ()):
            self._warned(live, printable(warning))
        live.node = str(report["facts"].get("node", ""))
        if live.earlier.get(epoch) == canonical(metrics):
            # An interrupted trial sends its last report once more: it may not have arrived.
            return Verdict("continue")
        live.n_val = report["facts"].get("n_val", live.n_val)
        value, metric = metrics[trial.config.metric], trial.config.metric
        seq = self._record.add_report(trial.trial, live.attempt, report, metric)
        verdict = live.past.add(
            live.attempt,
            epoch,
            report["used"],
            value,
            metrics,
            partial(self._plan.judge, trial, report["used"], live.n_val),
        )
        self._record.add_decision(seq, verdict)
        self._observers.reported(trial, live.attempt, report, verdict)
        self._plan.progress.used[trial.trial] = live.past.used
        live.end = live.past.end(trial, live.attempt)
        return Verdict("stop") if live.end is not None else verdict

    def failed(self, tune_trial: Trial) -> None:
        """The worker died, or could not be started: nobody reported why."""
        live = self._live.get(tune_trial.trial_id)
        if live is not None and live.end is None:
            told = _told(tune_trial)
            cause = death(told, live.node, self._oom_kills)
            live.end = End("error", shortly(told), cause)
            with self._watch.writing():
                self._record.add_event("error", printable(told), live.trial.trial)

    def ended(self, trial_id: str, result: Mapping[str, Any] | None, error: bool) -> None:
        """Tune is through with an attempt, for a reason that is known by now or not at all."""
        live = self._live.pop(trial_id)
        if live.end is None:
            live.end = live.silent_end(returned=bool(result and result.get("done")), died=error)
        with self._watch.writing():
            self._conclude(live, live.end, cut=self._stop.requested)

    def step(self) -> None:
        """Called several times a second, whether or not anything has happened."""
        self._watch.look()
        for live in self._live.values():
            self._end_if_stalled(live)
        self._view.refresh(self._plan.progress)

    def close(self, *, cut: bool) -> None:
        """Ends the stage, and the trials that Ray did not because it was cut short."""
        why = "stopped on request" if self._stop.requested else "the sweep itself failed"
        with self._watch.writing():
            while self._live:
                live = self._live.popitem()[1]
                self._conclude(live, live.end or End("cancelled", why, "stopped"), cut=True)
            if not cut:
                self._plan.finish()
            self._record.add_event(
                f"{self._plan.progress.stage} {'stopped' if cut else 'ended'}",
                json.dumps(self._plan.progress.states),
            )

    def _heard(self, live: Attempt) -> None:
        now = time.monotonic()
        if live.heard is not None:
            self._longest_silence = max(self._longest_silence, now - live.heard)
        live.heard = now

    @property
    def _patience(self) -> float:
        longest = self._longest_silence
        return max(_SHORTEST_SILENCE_S, _SILENCES * longest) if longest else _FIRST_SILENCE_S

    def _end_if_stalled(self, live: Attempt) -> None:
        if live.tune_trial is None or live.end is not None:
            return
        worker = live.tune_trial.temporary_state.ray_actor
        if worker is None or live.tune_trial.status != Trial.RUNNING:
            return
        if live.heard is None:
            # A worker has taken it up: only now can it be late with a report.
            live.heard = time.monotonic()
        allowed = self._plan.spaces[live.trial.study].resources.stall_after
        patience = self._patience if allowed == "auto" else allowed
        if time.monotonic() - live.heard > patience:
            why = f"no report for {patience:g} s; resources.stall_after allows more"
            live.end = End("error", why, "stalled")
            ray.kill(worker)

    def _conclude(self, live: Attempt, end: End, *, cut: bool) -> None:
        """Ends a trial, or has it tried again: now, or by a resume where the stage is cut."""
        retries = self._plan.spaces[live.trial.study].resources.retries
        failures = [*live.failures(), end.cause]
        if cut and end.cause in {"worker_died", "node_lost"}:
            # What stops the sweep often stops its workers as well; that is no fault of theirs.
            self._end(live, End("cancelled", end.reason, "stopped"))
        elif end.cause not in FAILURES or not live.again or is_final(failures, retries):
            self._end(live, end)
        elif cut:
            self._end(live, dataclasses.replace(end, state="cancelled"))
        else:
            self._again(live, end)

    def _again(self, live: Attempt, end: End) -> None:
        trial = live.trial
        self._record.end_attempt(trial.trial, end.cause, live.seconds)
        self._record.add_event("retry", f"{end.cause}: {end.reason}", trial.trial)
        self._plan.progress.count("running", -1)
        self._plan.again(self._record.trial(trial.trial))
        name = trial_name(trial, self._plan.progress)
        self._view.event(f"{name}  tried again  {end.cause}: {end.reason}")

    def _end(self, live: Attempt, end: End) -> None:
        state, progress = end.state, self._plan.progress
        reason = end.reason
        if end.cause in {"oom", "stalled", "node_lost", "worker_died"} and state == "error":
            reason = f"{end.cause}: {reason}"
        self._record.end_trial(live.trial.trial, state, reason, live.seconds, end.cause)
        self._observers.ended(live.trial, state)
        self._plan.ended(live.trial, state, live.past.by_epoch())
        progress.count("running", -1)
        progress.count(state, 1)
        self._view.event(sentence(live, dataclasses.replace(end, reason=reason), progress))
        self._errors_in_a_row = self._errors_in_a_row + 1 if state == "error" else 0
        if self._errors_in_a_row == _MOST_ERRORS_IN_A_ROW and not self._stop.requested:
            self._view.event(
                f"{_MOST_ERRORS_IN_A_ROW} trials failed in a row; no more are started"
            )
            self._record.add_event("gave up", f"{_MOST_ERRORS_IN_A_ROW} errors in a row")
            self._stop.request("gave up")


class _EachStep(tune.Stopper):
    """Tune asks it in each of its steps whether the sweep is to stop."""

    def __init__(self, driver: _Driver, stop: Stop) -> None:
        self._driver = driver
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        self._driver.step()
        return self._stop.requested

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()
