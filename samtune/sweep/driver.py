"""The driver of a sweep: Ray Tune runs the trials, and the record keeps their results.

All faults are handled in one way, from the record: a trial whose worker died, stalled or was
stopped goes back to its stage. Its next attempt continues from its checkpoint. Tune's own retries,
snapshots and restore are not used.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import threading
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from samtune.cluster.shipping import by_value, import_path
from samtune.cluster.start import Cluster
from samtune.messages import printable
from samtune.record.logs import log_path
from samtune.record.outcome import FAILURES, End, is_final
from samtune.record.provenance import hostname_hash
from samtune.record.record import Record
from samtune.record.rows import TrialRow, Verdict, canonical
from samtune.sweep.attempt import Attempt, describe, trial_name
from samtune.sweep.echo import Echo
from samtune.sweep.observers import Observers
from samtune.sweep.progress import Progress, View
from samtune.sweep.rebuild import judged_value
from samtune.sweep.stages import StagePlan, has_work
from samtune.sweep.stop import Stop, Watch
from samtune.sweep.workers import Workers

# A mistake that fails every trial should not be paid for by every trial.
_MOST_ERRORS_IN_A_ROW = 5
_WITHOUT_CHECKPOINT = (
    "paused at its rung without a checkpoint in its report: when it goes on, it trains again from "
    "its last one or from the start, and of a budget in seconds that part is lost; report a "
    "checkpoint each time (samtune's own trainables: task.checkpoint_every: 1), or set asha.mode "
    "to stop and asha.rescue to 0, with which no trial pauses"
)
# What SQLite raises when the record itself fails, and not the values of one report.
_ERRORS_OF_THE_RECORD = (sqlite3.OperationalError, sqlite3.DatabaseError)


class Driver:
    """The link between Ray Tune and the record.

    The driver proposes attempts, commits and judges their reports, and ends trials. Tune calls it
    from the main thread, and the heartbeat from another.
    """

    def __init__(
        self,
        stages: Iterable[StagePlan],
        record: Record,
        on: Cluster,
        view: View,
        stop: Stop,
        observers: Observers | None = None,
    ) -> None:
        self._stages = iter(stages)
        self._record = record
        self._on = on
        self._view = view
        self._stop = stop
        self._observers = observers or Observers(record, [], view.event)
        self._plan: StagePlan | None = None
        self._lock = threading.RLock()
        self._workers = Workers(on)
        self._import_path = import_path()
        self._folder = os.getcwd()
        self._echo = Echo(record.folder, view.event)
        self._warnings: set[str] = set()
        self._live: dict[str, Attempt] = {}
        self._errors_in_a_row = 0
        self.watch = Watch(record.folder, stop)
        self.progresses: list[Progress] = []

    @property
    def is_over(self) -> bool:
        """True if the sweep has ended or has to stop."""
        return self._stop.requested or (self._plan is None and not self._live)

    @property
    def plan(self) -> StagePlan:
        """The stage that is open."""
        assert self._plan is not None, "no stage is open"
        return self._plan

    def open_next(self) -> bool:
        """Open the next stage that has a trial to run, and return whether there is one."""
        self._plan = None
        with self.watch.writing():
            for plan in self._stages:
                self.progresses.append(plan.progress)
                if has_work(plan):
                    stage = plan.progress.stage
                    self._record.add_event(f"{stage} started", f"{self._on.slots} slots")
                    self._plan = plan
                    break
                plan.finish()
        return self._plan is not None

    def _close_stage(self) -> None:
        self.plan.finish()
        self._add_end_of_stage("ended")
        self._plan = None

    def _add_end_of_stage(self, how: str) -> None:
        progress = self.plan.progress
        self._record.add_event(f"{progress.stage} {how}", json.dumps(progress.states))

    def propose(self, tune_id: str) -> dict[str, Any] | None:
        """Start the next attempt, and return its configuration; None while there is none."""
        config = None
        with self._lock, self.watch.writing():
            self.watch.room()
            if not self._stop.requested and len(self._live) < self._on.slots:
                trial = self._next()
                config = None if trial is None else self._start(tune_id, trial)
        return config

    def _next(self) -> TrialRow | None:
        """Return the next trial. A stage ends when it has none and none runs."""
        while self._plan is not None:
            trial = self._plan.next()
            # A running trial may fail and return here, or promote a paused one.
            if trial is not None or self._live:
                return trial
            self._close_stage()
            self.open_next()
        return None

    def _start(self, tune_id: str, trial: TrialRow) -> dict[str, Any]:
        attempt, permit = self._record.start_attempt(trial)
        live = self._live[tune_id] = Attempt(trial, attempt, n_val=trial.facts.get("n_val"))
        if attempt:
            live.recall(self._record)
        if trial.state == "paused":
            self.plan.progress.count("paused", -1)
        self.plan.progress.count("running", 1)
        self._observers.started(trial, attempt)
        self._echo.begin(trial.trial, trial_name(trial, self.plan.progress))
        config = dataclasses.replace(trial.config, test_permit=permit, used=live.past.used)
        return {
            "trial": config.to_dict(),
            "path": self._import_path,
            "by_value": by_value(trial.config.trainable),
            "folder": self._folder,
            "log": str(log_path(self._record.folder, trial.trial)),
            "host": hostname_hash(),
            "gpu_memory_gb": self.plan.spaces[trial.study].resources.gpu_memory_gb,
            "mps": self._on.size.mps,
            "storage": self._on.storage,
            "run": self._record.name,
            "last_epoch": max(live.earlier, default=None),
        }

    def reported(self, tune_id: str, result: Mapping[str, Any]) -> bool:
        """Commit a report, judge it and commit the verdict. Return whether the attempt continues.

        Reports that come twice, late or out of order change nothing.
        """
        goes_on = False
        with self._lock, self.watch.writing():
            live = self._live.get(tune_id)
            if live is None or live.end is not None:
                trial = live.trial.trial if live else None
                self._record.add_event("ignored report", "its trial had ended", trial)
                return False
            goes_on = self._take(live, result)
            if not goes_on:
                self._conclude(self._live.pop(tune_id))
        return goes_on

    def _take(self, live: Attempt, result: Mapping[str, Any]) -> bool:
        """Process a worker's message, and return whether its attempt continues."""
        if "worker" in result:
            self._workers.started(live, result["worker"], str(result["node"]))
            return True
        if "warning" in result:
            self._warn(live, str(result["warning"]))
            return True
        if "error" in result:
            return self._raised(live, result)
        self._workers.heard(live)
        self.watch.room()
        try:
            return self._commit(live, json.loads(result["report"]))
        except Exception as error:
            if isinstance(error, OSError) or type(error) in _ERRORS_OF_THE_RECORD:
                raise
            # One report that cannot be recorded is an error of its own trial alone.
            self._record.add_event("error", traceback.format_exc(), live.trial.trial)
            why = f"its report cannot be recorded: {type(error).__name__}: {error}"
            live.end, live.again = End("error", printable(why), "error"), False
            return False

    def _warn(self, live: Attempt, warning: str) -> None:
        self._record.add_event("warning", warning, live.trial.trial)
        if warning not in self._warnings:
            self._warnings.add(warning)
            self._view.event(f"{trial_name(live.trial, self.plan.progress)}  {warning}")

    def _raised(self, live: Attempt, result: Mapping[str, Any]) -> bool:
        reason = printable(" ".join(str(result["error"]).split()))
        live.end = End("error", reason, result["cause"])
        live.again = bool(result["again"])
        if result["cause"] == "disk_full":
            live.end = End("cancelled", reason, "disk_full")
            self._stop.request("disk full", reason)
        self._record.add_event("error", printable(str(result["traceback"])), live.trial.trial)
        # If the worker may be broken, it raises again and is not reused.
        return bool(result["raises"])

    def _commit(self, live: Attempt, report: Mapping[str, Any]) -> bool:
        trial, epoch, metrics = live.trial, report["epoch"], report["metrics"]
        if epoch in live.own or epoch < max(live.own, default=epoch):
            self._record.add_event("ignored report", f"epoch {epoch} once more", trial.trial)
            return True
        live.own.add(epoch)
        for warning in report.get("warnings", ()):
            self._warn(live, printable(warning))
        if live.earlier.get(epoch) == canonical(metrics):
            # An interrupted trial sends its last report once more: it may not have arrived.
            return True
        live.n_val = report["facts"].get("n_val", live.n_val)
        metric, used = trial.config.metric, report["used"]
        seq = self._record.add_report(trial.trial, live.attempt, report, metric)
        is_new = live.past.goes_further(epoch, used)
        verdict = Verdict("continue")
        if is_new:
            value = judged_value(metrics[metric], metrics)
            verdict = self.plan.judge(trial, used, live.n_val, value)
        live.past.add(
            live.attempt, epoch, used, metrics[metric], metrics, verdict if is_new else None
        )
        self._record.add_decision(seq, verdict)
        if verdict.decision == "pause" and not report["checkpoint"]:
            self._warn(live, _WITHOUT_CHECKPOINT)
        self._observers.reported(trial, live.attempt, report, verdict)
        self.plan.progress.used[trial.trial] = live.past.used
        live.end = live.past.end(trial, live.attempt)
        return live.end is None

    def failed(self, tune_id: str, words: str, *, of_memory: bool) -> None:
        """Handle the death of a worker that could not report its cause."""
        with self._lock, self.watch.writing():
            live = self._live.get(tune_id)
            if live is None or live.end is not None:
                return
            live.end = self._workers.died(live, words, of_memory=of_memory)
            why = printable(words or live.end.reason or "")
            self._record.add_event("error", why, live.trial.trial)

    def ended(self, tune_id: str, result: Mapping[str, Any] | None, *, error: bool) -> None:
        """Handle the end of an attempt that was not ended by a report."""
        with self._lock, self.watch.writing():
            live = self._live.pop(tune_id, None)
            if live is not None:
                returned = bool(result and result.get("done"))
                live.end = live.end or live.silent_end(returned=returned, died=error)
                self._conclude(live)

    def beat(self) -> None:
        """Look for requests to stop and for stalled workers, and refresh the view."""
        with self._lock:
            self.watch.look()
            problem = self._workers.problem() if self._live else None
            if problem is not None:
                self._stop.request("no workers", problem)
            for live in self._live.values():
                resources = self.plan.spaces[live.trial.study].resources
                self._workers.end_if_silent(live, resources.stall_after)
            self._echo.look()
            if self._plan is not None:
                self._view.refresh(self._plan.progress)

    def lost_to_memory(self) -> bool:
        """Note which trials Ray has killed to free memory, and return whether there are any."""
        with self._lock:
            return self._workers.lost_to_memory(self._live.values())

    def close(self, *, cut: bool) -> None:
        """End the open stage, and the attempts that Ray has not ended because it was cut short."""
        if self._plan is None:
            return
        why = "stopped on request" if self._stop.requested else "the sweep itself failed"
        with self._lock, self.watch.writing():
            while self._live:
                live = self._live.popitem()[1]
                live.end = live.end or End("cancelled", why, "stopped")
                self._conclude(live, cut=True)
            if cut:
                # Proposed when the stage was opened, and never started.
                for trial in self._record.running():
                    self._record.end_trial(trial.trial, "cancelled", why, cause="stopped")
                self._add_end_of_stage("stopped")
            else:
                self._close_stage()

    def _conclude(self, live: Attempt, *, cut: bool = False) -> None:
        """End a trial, or retry it: now, or in a resume if the sweep is interrupted."""
        end, cut = live.end, cut or self._stop.requested
        assert end is not None, "an attempt is concluded when its end is known"
        self._echo.end(live.trial.trial)
        retries = self.plan.spaces[live.trial.study].resources.retries
        failures = [*live.failures(), end.cause]
        if cut and end.cause in {"worker_died", "node_lost"}:
            # A signal that stops the sweep often stops its workers too. That is not their failure.
            self._end(live, End("cancelled", end.reason, "stopped"))
        elif end.cause not in FAILURES or not live.again or is_final(failures, retries):
            self._end(live, end)
        elif cut:
            self._end(live, dataclasses.replace(end, state="cancelled"))
        else:
            self._try_again(live, end)

    def _try_again(self, live: Attempt, end: End) -> None:
        trial, progress = live.trial, self.plan.progress
        self._record.end_attempt(trial.trial, end.cause, live.seconds)
        self._record.add_event("retry", f"{end.cause}: {end.reason}", trial.trial)
        progress.count("running", -1)
        self.plan.again(self._record.trial(trial.trial))
        name = trial_name(trial, progress)
        self._view.event(f"{name}  tried again  {end.cause}: {end.reason}")

    def _end(self, live: Attempt, end: End) -> None:
        state, progress, reason = end.state, self.plan.progress, end.reason
        if end.cause in {"oom", "stalled", "node_lost", "worker_died"} and state == "error":
            reason = f"{end.cause}: {reason}"
        self._record.end_trial(live.trial.trial, state, reason, live.seconds, end.cause)
        self._observers.ended(live.trial, state)
        self.plan.ended(live.trial, state, live.past.by_epoch(), live.past.last())
        progress.count("running", -1)
        progress.count(state, 1)
        self._view.event(describe(live, dataclasses.replace(end, reason=reason), progress))
        self._errors_in_a_row = self._errors_in_a_row + 1 if state == "error" else 0
        if self._errors_in_a_row == _MOST_ERRORS_IN_A_ROW and not self._stop.requested:
            self._view.event(
                f"{_MOST_ERRORS_IN_A_ROW} trials failed in a row; no more are started"
            )
            self._record.add_event("gave up", f"{_MOST_ERRORS_IN_A_ROW} errors in a row")
            self._stop.request("gave up")
