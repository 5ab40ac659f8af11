"""A run's searches as Optuna studies in a journal file, which optuna-dashboard opens."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping
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
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from samtune import durable
from samtune.record.record import Record
from samtune.record.rows import TrialRow
from samtune.space.search_space import Choice, Domain, Fixed, Grid, Range, SearchSpace

optuna.logging.set_verbosity(optuna.logging.WARNING)

_STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,
}


def write_journal(record: Record, path: Path) -> None:
    """Writes `path` anew, whole or not at all: a study a space, a trial for each of its search.

    Completed trials are COMPLETE, pruned and diverged ones PRUNED, and those that failed or were
    cut short FAIL, or RUNNING while the sweep runs; samtune's own word for it is the user
    attribute `state`. A report's value is the intermediate value of its epoch.
    """
    running = record.is_locked()
    curves = record.curves()
    memory = _Memory()
    for study in record.studies():
        space = SearchSpace.from_text(study.space, study.name, f"{record.name}/{study.name}")
        maximize = study.settings["mode"] == "max"
        copy = optuna.create_study(
            storage=JournalStorage(memory),
            study_name=study.name,
            direction=StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE,
        )
        distributions = _distributions(space)
        trials = record.trials(study=study.study, stage="search")
        copy.add_trials(
            _frozen(trial, curves.get(trial.trial, {}), distributions, running)
            for trial in sorted(trials, key=lambda trial: trial.number)
        )
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        JournalFileBackend(str(aside)).append_logs(memory.logs)
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)


class Mirror(BaseJournalBackend):
    """A study in an Optuna journal, to which ended trials are appended.

    Without Optuna's lock, which would outlive a killed process: one writes here. Each trial passes
    through a storage of its own, as a storage of Optuna's keeps a copy of all that it has written.
    """

    def __init__(self, path: Path, name: str, direction: StudyDirection) -> None:
        self._path = path
        self._name = name
        self._logs = list(JournalFileBackend(str(path)).read_logs(0))
        optuna.create_study(
            storage=JournalStorage(self), study_name=name, direction=direction, load_if_exists=True
        )

    def add(self, trial: FrozenTrial) -> None:
        storage = JournalStorage(self)
        storage.create_new_trial(storage.get_study_id_from_name(self._name), trial)
        self._logs.pop()

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        durable.append(self._path, "".join(lines).encode())
        # As Optuna would read them.
        self._logs += map(json.loads, lines)


class _Memory(BaseJournalBackend):
    """Holds the journal until it is complete: Optuna's file would be locked and synced for each
    of its lines."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs


def _frozen(
    trial: TrialRow,
    curve: Mapping[int, float],
    distributions: Mapping[str, BaseDistribution],
    running: bool,
) -> FrozenTrial:
    ended = datetime.datetime.fromtimestamp(trial.ended_at) if trial.ended_at else None
    state = _STATES.get(trial.state, TrialState.FAIL)
    if trial.state == "running":
        state = TrialState.RUNNING if running else TrialState.FAIL
    if state is TrialState.FAIL and ended is None:
        ended = datetime.datetime.fromtimestamp(trial.proposed_at)
    told = state is TrialState.COMPLETE or trial.state == "pruned"
    drawn = {name: value for name, value in trial.config.knobs.items() if name in distributions}
    return FrozenTrial(
        number=trial.number,
        trial_id=trial.number,
        state=state,
        value=curve[max(curve)] if told and curve else None,
        datetime_start=datetime.datetime.fromtimestamp(trial.proposed_at),
        datetime_complete=ended,
        params=drawn,
        distributions={name: distributions[name] for name in drawn},
        user_attrs={"state": trial.state, "origin": trial.origin, "reason": trial.reason},
        system_attrs={},
        intermediate_values=dict(curve),
    )


def _distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """What each searched knob is drawn from; tied knobs stand on their own here."""
    found = {
        name: _distribution(domain)
        for name, domain in space.knobs.items()
        if not isinstance(domain, Fixed)
    }
    for name in space.points[0] if space.points else ():
        values = tuple(dict.fromkeys(point[name] for point in space.points))
        found[name] = CategoricalDistribution(values)
    return found


def _distribution(domain: Domain) -> BaseDistribution:
    match domain:
        case Choice(values=values) | Grid(values=values):
            return CategoricalDistribution(values)
        case Range(low=low, high=high, scale=scale, step=step, type=kind):
            log = scale == "log"
            if kind == "int":
                return IntDistribution(int(low), int(high), log, int(step or 1))
            return FloatDistribution(low, high, log, step)
    raise TypeError(f"no such domain: {domain!r}")
