"""A space file from an Optuna study: its distributions, and its best trials as starting points."""

from __future__ import annotations

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
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from samtune.messages import nearest, quoted
from samtune.space.conversion import Converted, scalar
from samtune.space.errors import SpaceError
from samtune.space.word_types import NAME

_STARTS = 3


def from_optuna(source: str, study_name: str | None = None) -> Converted:
    """Convert an Optuna study.

    Args:
        source: A database URL, an SQLite file, or a journal file.
        study_name: The study; None where the storage has only one.

    Returns:
        A space with a knob per distribution. Its first trials are the best of the study that set
        every knob.

    Raises:
        SpaceError: The storage cannot be read, or the study is not there.

    """
    study = _study(source, study_name)
    found = Converted({"trainable": "my_module:my_trainable"})
    found.left_out.append("`trainable`: a study has none; write your own")
    distributions: dict[str, BaseDistribution] = {}
    for trial in study.get_trials(deepcopy=False):
        for name, distribution in trial.distributions.items():
            if distributions.setdefault(name, distribution) != distribution:
                sentence = f"{name}: its range changed between trials; the first one is taken"
                if sentence not in found.left_out:
                    found.left_out.append(sentence)
    knobs = found.space["knobs"] = {}
    for name, distribution in distributions.items():
        try:
            if not NAME.fullmatch(name):
                raise ValueError(f"{quoted(name)} is no name for a knob; use letters, digits, _")
            knobs[name] = _knob(distribution)
        except ValueError as error:
            found.left_out.append(f"{name}: {error}")
    metrics = _metrics(study)
    metric, mode = next(iter(metrics.items()))
    ended = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    found.space["budget"] = {"kind": "epochs", "per_trial": 10, "trials": max(len(ended), 1)}
    found.left_out.append("budget: a study has none; 10 epochs per trial are assumed")
    one = {"metric": metric, "mode": mode}
    found.space["search"] = one if len(metrics) == 1 else {"metrics": metrics}
    starts = _starts(ended, knobs, mode)
    if starts:
        found.space["search"]["first"] = starts
    return found


def _metrics(study: optuna.Study) -> dict[str, str]:
    """Return the objectives with their better ends; `value`, `value_2`, ... without good names."""
    modes = ["min" if each == StudyDirection.MINIMIZE else "max" for each in study.directions]
    numbered = ["value", *(f"value_{k}" for k in range(2, len(modes) + 1))]
    names = study.metric_names or numbered
    good = len(set(names)) == len(modes) and all(map(NAME.fullmatch, names))
    return dict(zip(names if good else numbered, modes, strict=True))


def _starts(
    ended: list[optuna.trial.FrozenTrial], knobs: dict[str, Any], mode: str
) -> list[dict[str, Any]]:
    whole = [trial for trial in ended if knobs and trial.params.keys() == knobs.keys()]
    whole.sort(key=lambda trial: trial.values[0], reverse=mode == "max")
    starts: list[dict[str, Any]] = []
    for trial in whole:
        if trial.params not in starts:
            starts.append(dict(trial.params))
    return starts[:_STARTS]


def _knob(distribution: BaseDistribution) -> dict[str, Any]:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return {"choice": [scalar(value) for value in choices]}
        case FloatDistribution(low=low, high=high, log=log, step=step):
            words: dict[str, Any] = {"min": low, "max": high}
        case IntDistribution(low=low, high=high, log=log, step=step):
            words = {"min": low, "max": high, "type": "int"}
            step = None if step == 1 else step
        case _:
            raise ValueError(f"{type(distribution).__name__} has no counterpart")
    if log:
        words["scale"] = "log"
    if step is not None:
        words["step"] = step
    return words


def _study(source: str, name: str | None) -> optuna.Study:
    storage: Any = source
    if "://" not in source:
        path = Path(source)
        if not path.is_file():
            raise SpaceError([f"no file {source}; write a file's path or a database URL"])
        with path.open("rb") as file:
            database = file.read(15) == b"SQLite format 3"
        storage = (
            f"sqlite:///{path}" if database else JournalStorage(JournalFileBackend(str(path)))
        )
    try:
        names = optuna.study.get_all_study_names(storage)
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise SpaceError([f"{source} cannot be read as an Optuna storage: {first}"]) from error
    if not names:
        raise SpaceError([f"{source} holds no Optuna study"])
    if name is None and len(names) > 1:
        known = ", ".join(map(quoted, names))
        raise SpaceError([f"{source} has {len(names)} studies ({known}); name one with --study"])
    if name is not None and name not in names:
        raise SpaceError([f"{source} has no study {quoted(name)}; {nearest(name, names)}"])
    return optuna.load_study(study_name=name or names[0], storage=storage)
