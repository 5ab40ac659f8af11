"""The searches of a run as Optuna studies in a journal file, which optuna-dashboard opens."""

from __future__ import annotations

import datetime
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from samtune import durable
from samtune.record.record import Record
from samtune.record.rows import TrialRow
from samtune.search.learning import DIRECTIONS
from samtune.space.knobs import among, same
from samtune.space.search_space import Choice, Domain, Fixed, Grid, Range, SearchSpace
from samtune.trial import Value

_STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,
}


class Journal:
    """A study per space and a trial per search trial, with samtune's numbers.

    Completed trials are COMPLETE, pruned and diverged ones PRUNED, and those that failed or were
    cut short FAIL. The user attributes hold samtune's own state, the origin of the configuration
    and the reason of the end. A report's value is the intermediate value of its epoch. Nothing in
    samtune reads the file.

    Args:
        path: The file, which is written anew.
        spaces: The space of each study, in the order of the record.
        live: Whether trials that have not ended will continue: RUNNING if so, otherwise FAIL.
    """

    def __init__(self, path: Path, spaces: Sequence[SearchSpace], live: bool = True) -> None:
        self._path = path
        # A process that is killed leaves Optuna's lock file behind.
        for stale in (path, path.with_name(f"{path.name}.lock")):
            stale.unlink(missing_ok=True)
        self._unfinished = TrialState.RUNNING if live else TrialState.FAIL
        self._lines = _Lines()
        self._storage = JournalStorage(self._lines)
        self._distributions = [_distributions(space) for space in spaces]
        self._studies = []
        for space in spaces:
            self._create(space)
            self._studies.append(self._storage.get_study_id_from_name(space.name))
        self._aims = [space.search.aims for space in spaces]
        self._ids: dict[int, int] = {}

    def _create(self, space: SearchSpace) -> None:
        metrics = space.search.aims.metrics
        study = optuna.create_study(
            storage=self._storage,
            study_name=space.name,
            directions=[DIRECTIONS[mode] for mode in metrics.values()],
        )
        if len(metrics) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(list(metrics))

    def add(self, trial: TrialRow, curve: Mapping[int, float], last: Mapping[str, float]) -> None:
        """Add a trial; numbers of a study come in their order.

        Args:
            trial: The trial.
            curve: Its finite values of the first metric by epoch.
            last: All metrics of its last report.
        """
        row = self._row(trial, curve, last)
        self._ids[trial.trial] = self._storage.create_new_trial(self._studies[trial.study], row)

    def end(self, trial: TrialRow, curve: Mapping[int, float], last: Mapping[str, float]) -> None:
        """Finish a trial that was added as a running one, and write the file."""
        row, known = self._row(trial, curve, last), self._ids[trial.trial]
        for epoch, value in sorted(row.intermediate_values.items()):
            self._storage.set_trial_intermediate_value(known, epoch, value)
        for name, attribute in row.system_attrs.items():
            self._storage.set_trial_system_attr(known, name, attribute)
        for name, attribute in row.user_attrs.items():
            self._storage.set_trial_user_attr(known, name, attribute)
        self._storage.set_trial_state_values(known, row.state, row.values)
        self.write()

    def write(self) -> None:
        """Append to the file what is not in it yet."""
        durable.append(self._path, self._lines.taken())

    def _row(
        self, trial: TrialRow, curve: Mapping[int, float], last: Mapping[str, float]
    ) -> FrozenTrial:
        aims = self._aims[trial.study]
        state = _STATES.get(trial.state, TrialState.FAIL)
        if trial.state in {"running", "paused"}:
            state = self._unfinished
        values = None
        if aims.several and trial.state == "completed":
            values = aims.values(last)
            if not all(map(math.isfinite, values)):
                values, state = None, TrialState.PRUNED
        elif curve and not aims.several and trial.state in {"completed", "pruned"}:
            values = [curve[max(curve)]]
        ended = None
        if state.is_finished():
            ended = datetime.datetime.fromtimestamp(trial.ended_at or trial.proposed_at)
        distributions = self._distributions[trial.study]
        knobs = {
            name: value for name, value in trial.config.knobs.items() if name in distributions
        }
        row = FrozenTrial(
            number=trial.number,
            trial_id=trial.number,
            state=state,
            value=None,
            values=values,
            datetime_start=datetime.datetime.fromtimestamp(trial.proposed_at),
            datetime_complete=ended,
            params={name: _shown(distributions[name], value) for name, value in knobs.items()},
            distributions={name: distributions[name] for name in knobs},
            user_attrs={"state": trial.state, "origin": trial.origin, "reason": trial.reason},
            system_attrs={},
            # Optuna has none of several metrics.
            intermediate_values={} if aims.several else dict(curve),
        )
        if last and trial.state in {"completed", "pruned"}:
            for name, over in aims.excess(last).items():
                row.set_constraint(name, over)
        return row


def write_journal(record: Record, path: Path) -> None:
    """Write a record's searches to `path`, whole or not at all."""
    spaces = [
        SearchSpace.from_text(study.space, study.name, f"{record.name}/{study.name}")
        for study in record.studies()
    ]
    curves, ends = record.curves(), record.last_metrics()
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    journal = Journal(aside, spaces, live=record.is_locked())
    for trial in sorted(record.trials(stage="search"), key=lambda trial: trial.number):
        journal.add(trial, curves.get(trial.trial, {}), ends.get(trial.trial, {}))
    try:
        journal.write()
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)


class _Lines(BaseJournalBackend):
    """The lines of a journal before they are written.

    Optuna's own file would be locked and synced for each line. Its one reader, the storage, reads
    each line once, so lines that were read are dropped.
    """

    def __init__(self) -> None:
        self._read = 0
        self._logs: list[dict[str, Any]] = []
        self._unwritten: list[str] = []

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        fresh = self._logs[log_number_from - self._read :]
        self._read, self._logs = self._read + len(self._logs), []
        return fresh

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        self._unwritten += [f"{line}\n" for line in lines]
        # As Optuna would read them.
        self._logs += map(json.loads, lines)

    def taken(self) -> bytes:
        lines, self._unwritten = self._unwritten, []
        return "".join(lines).encode()


def _distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Return the distribution of each searched knob; tied knobs count as separate ones."""
    domains = {
        name: domain for name, domain in space.knobs.items() if not isinstance(domain, Fixed)
    }
    for name in space.points[0] if space.points else ():
        values: list[Value] = []
        for point in space.points:
            values += [] if among(point[name], values) else [point[name]]
        domains[name] = Choice(tuple(values), values[0])
    return {name: _distribution(domain) for name, domain in domains.items()}


def _distribution(domain: Domain) -> BaseDistribution:
    match domain:
        case Choice(values=values) | Grid(values=values):
            # Optuna does not distinguish 1, 1.0 and true; their JSON texts differ.
            distinct = len(set(values)) == len(values)
            return CategoricalDistribution(values if distinct else [json.dumps(v) for v in values])
        case Range(low=low, high=high, scale=scale, type="int") if high <= 2**53 and low >= -(
            2**53
        ):
            log = scale == "log"
            return IntDistribution(int(low), int(high), log, 1 if log else int(domain.step or 1))
        case Range(low=low, high=high, scale=scale):
            return FloatDistribution(float(low), float(high), scale == "log")
    raise TypeError(f"no such domain: {domain!r}")


def _shown(distribution: BaseDistribution, value: Value) -> Value:
    """Return a knob's value as its distribution has it."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            known = any(choice is not None and same(value, choice) for choice in choices)
            return value if known else json.dumps(value)
        case FloatDistribution():
            return float(value)
    return value
