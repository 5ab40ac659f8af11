"""The sharpness of confirmed models, measured from the checkpoints of their repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from samtune.api.tables import write_tables
from samtune.errors import SamtuneError
from samtune.messages import nearest
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.record.rows import StudyRow, TrialRow
from samtune.space.trainable import resolve


class Settings(TypedDict, total=False):
    """The settings of a sharpness measurement."""

    samples: int
    m: int
    rho: float
    batch_norm: Literal["eval", "train"]


SETTINGS: Mapping[str, Any] = {"samples": 1024, "m": 128, "rho": 0.1, "batch_norm": "eval"}
"""The default settings of a sharpness measurement."""


def measure(
    record: Record,
    rows: Sequence[str],
    settings: Mapping[str, Any],
    tell: Callable[[str], None],
) -> list[str]:
    """Measure the completed repeats of a run's winners, and write its tables.

    Each result is on record before the next repeat. Repeats that have been measured with equal
    settings are not measured again.

    Args:
        record: The run's record.
        rows: Names of rows of the leaderboard; [] for all.
        settings: Values that replace those of `SETTINGS`.
        tell: Called with a line for each repeat that is measured.

    Returns:
        A sentence for each repeat that cannot be measured.

    Raises:
        RunError: There is no such row, nothing is confirmed, or a trainable cannot be measured
            (exit code 2); or another process writes the run (4).
    """
    wanted = {**SETTINGS, **settings}
    studies = _chosen(record, rows)
    trainables = {study.study: _trainable(record, study) for study in studies}
    failed = []
    with record.lock():
        repeats = [
            trial
            for study in studies
            for trial in record.trials(study=study.study, stage="confirm", states={"completed"})
            if trial.rank == 0
        ]
        if not repeats:
            raise RunError(
                f"{record.name} has no completed repeat, and only confirmed models are measured; "
                f"`samtune confirm {record.name}` makes them",
                exit_code=2,
            )
        known: dict[str, dict[str, Any]] = record.meta("sharpness") or {}
        missing = [trial for trial in repeats if not _is_measured(record, trial, known, wanted)]
        for count, trial in enumerate(missing, start=1):
            name = f"{trial.config.variant}, seed bundle {trial.bundle}"
            tell(f"measuring {count} of {len(missing)}: {name}")
            try:
                found = trainables[trial.study].sharpness(trial.config, wanted)
            except (SamtuneError, RuntimeError) as error:
                # As in a trial: no memory is left, or an operator has no second derivative.
                why = (str(error).strip() or type(error).__name__).splitlines()[0]
                failed.append(f"{name}: {why}")
                continue
            known[trial.key] = dict(found)
            record.set_meta("sharpness", known)
    write_tables(record)
    return failed


def _chosen(record: Record, rows: Sequence[str]) -> list[StudyRow]:
    """Return the studies of the rows."""
    studies = record.studies()
    names = [str(study.settings.get("row", study.name)) for study in studies]
    for row in rows:
        if row not in names:
            raise RunError(
                f"{record.name} has no row {row!r}; {nearest(row, dict.fromkeys(names))}",
                exit_code=2,
            )
    pairs = zip(studies, names, strict=True)
    return [study for study, name in pairs if not rows or name in rows]


def _trainable(record: Record, study: StudyRow) -> Any:
    """Return the trainable of a study, which must have a method `sharpness`."""
    trial = next(record.trials(study=study.study), None)
    if trial is None:
        return None
    reference = trial.config.trainable
    trainable = resolve(reference)
    if not callable(getattr(trainable, "sharpness", None)):
        raise RunError(
            f"{study.name}: {reference} has no method sharpness(config, settings), so its models "
            "cannot be measured; choose other rows with --rows, or write it: it returns a dict of "
            "the columns sharp_lambda_max, sharp_trace and so on",
            exit_code=2,
        )
    return trainable


def _is_measured(
    record: Record,
    trial: TrialRow,
    known: Mapping[str, Mapping[str, Any]],
    wanted: Mapping[str, Any],
) -> bool:
    """Return whether a repeat has been measured with these settings, perhaps by itself."""
    found = known.get(trial.key)
    if found is None:
        *_, last = record.reports(trial=trial.trial)
        found = {**last.metrics, "sharp_bn_mode": trial.facts.get("sharp_bn_mode")}
    n_train = trial.facts.get("n_train", wanted["samples"])
    settings = {
        "sharp_samples": min(wanted["samples"], n_train),
        "sharp_m": wanted["m"],
        "sharp_rho": wanted["rho"],
        "sharp_bn_mode": wanted["batch_norm"],
    }
    return settings.items() <= found.items()
