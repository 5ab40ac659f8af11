"""The trials of a run: their list, and one of them in full."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samtune.messages import nearest
from samtune.record.folder import RunError
from samtune.record.logs import log_path
from samtune.record.reader import Reader
from samtune.record.rows import Stage, StudyRow, TrialRow
from samtune.space.aims import limits_text, measured
from samtune.views.status import label

BARS = "▁▂▃▄▅▆▇█"
_FIRST = ("train_loss", "val_loss", "train_acc", "val_acc", "lr", "rho")
_COSTS = {
    *("step", "see", "forward_samples", "backward_samples", "skipped_steps"),
    *("averaged_forward_samples", "sampled_forward_samples"),
    *("train_s", "eval_s", "data_s", "peak_rss_mb", "peak_gpu_mb"),
}


def trials_of(
    record: Reader, space: str | None = None, state: str | None = None
) -> list[dict[str, Any]]:
    """Return a row of plain values per trial, in the order of the proposals.

    Value, rung, epoch and used budget are those of the last report. `trial` is the word that
    `samtune show` takes: the number within the space, with an `r` before a repeat's. `aims` has
    the further metrics that the search improves, and `misses` the constraints that it misses.

    Args:
        record: the run.
        space: only this space's trials.
        state: only the trials in this state.

    Raises:
        RunError: the run has no such space (exit code 2).
    """
    studies = record.studies()
    wanted = {study_called(record, space).study} if space else {s.study for s in studies}
    rungs, attempts, last = record.rungs_reached(), record.attempt_counts(), record.last_reports()
    never = (None, 0.0, 0)
    aims = {study.study: study.aims for study in studies}
    asked = any(each.several or each.limits for each in aims.values())
    metrics = record.last_metrics() if asked else {}
    return [
        {
            "space": studies[trial.study].name,
            "trial": label(trial.stage, trial.number),
            "stage": trial.stage,
            "state": trial.state,
            "value": _finite(value),
            "rung": rungs.get(trial.trial),
            "used": used,
            "epoch": epoch,
            "knobs": dict(trial.config.knobs),
            "searched": studies[trial.study].settings["searched"],
            "attempts": attempts.get(trial.trial, (0, 0.0))[0],
            "origin": trial.origin,
            "reason": trial.reason,
            "aims": {
                name: _finite(measured(name, metrics.get(trial.trial, {})))
                for name in [*aims[trial.study].metrics][1:]
            },
            "misses": [
                limits_text({name: aims[trial.study].limits[name]})
                for name, over in aims[trial.study].excess(metrics.get(trial.trial, {})).items()
                if over > 0 and trial.trial in last
            ],
        }
        for trial in record.trials()
        for value, used, epoch in [last.get(trial.trial, never)]
        if trial.study in wanted and (state is None or trial.state == state)
    ]


def sorted_trials(
    trials: Sequence[dict[str, Any]], by: str, mode: str = "max"
) -> list[dict[str, Any]]:
    """Return rows of `trials_of` in the order of a column; rows without a value come last.

    Args:
        trials: the rows.
        by: the column. Its order is alphabetical for `state`, the best first for `value`, and the
            largest first for the others.
        mode: the better direction of `value`, max or min.
    """
    if by == "state":
        return sorted(trials, key=lambda trial: str(trial["state"]))
    sign = 1 if by == "value" and mode == "min" else -1
    return sorted(trials, key=lambda t: math.inf if t[by] is None else sign * t[by])


def trial_of(record: Reader, reference: str) -> dict[str, Any]:
    """Return everything that is recorded about one trial as plain values for JSON.

    Args:
        record: the run.
        reference: `5`, or `sam:5` where several spaces have a trial 5, or `r2` for repeat 2.

    Raises:
        RunError: there is no such trial, or more than one (exit code 2).
    """
    study, trial = _found(record, reference)
    events = record.events(trial=trial.trial)
    config = trial.config
    return {
        "run": record.name,
        "space": study.name,
        "trial": label(trial.stage, trial.number),
        "stage": trial.stage,
        "state": trial.state,
        "reason": trial.reason,
        "origin": trial.origin,
        "variant": config.variant,
        "base": config.base,
        "metric": config.metric,
        "knobs": dict(config.knobs),
        "searched": study.settings["searched"],
        "task": dict(config.task),
        "budget": {"kind": config.budget.kind, "per_trial": config.budget.per_trial},
        "seeds": config.to_dict()["seeds"],
        "facts": {n: _finite(fact) for n, fact in trial.facts.items() if n != "test_bits"},
        "proposed_at": trial.proposed_at,
        "log": str(log_path(record.folder, trial.trial)),
        "checkpoint": _last_checkpoint(config.checkpoint_dir),
        "ended_at": trial.ended_at,
        "attempts": [dict(attempt) for attempt in record.attempts(trial=trial.trial)],
        "events": [{k: event[k] for k in ("at", "kind", "detail")} for event in events],
        "curve": [
            {
                "epoch": report.epoch,
                "attempt": report.attempt,
                "used": report.used,
                "value": _finite(report.value),
                "decision": report.decision,
                "rung": report.rung,
                "cutoff": _finite(report.cutoff),
                "metrics": {name: _finite(value) for name, value in report.metrics.items()},
            }
            for report in record.reports(trial=trial.trial)
        ],
    }


def _last_checkpoint(folder: str | None) -> str | None:
    """Return the newest checkpoint of the shipped trainables that is still there."""
    found = sorted(Path(folder).glob("epoch-*/state.pt")) if folder else []
    return str(found[-1]) if found else None


def shown_metrics(trial: dict[str, Any]) -> list[str]:
    """Return the metrics that a table of a trial's curve shows, beside the search's metric.

    Args:
        trial: what `trial_of` returned.
    """
    names = dict.fromkeys(name for report in trial["curve"] for name in report["metrics"])
    first = [name for name in _FIRST if name in names and name != trial["metric"]]
    hidden = {*first, *_COSTS, trial["metric"]}
    return [*first, *(name for name in names if name not in hidden)]


def _finite(value: Any) -> Any:
    """Return the value, or None for a number that JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def study_called(record: Reader, space: str) -> StudyRow:
    """Return the study of a space. Raise RunError (exit code 2) when the run has none."""
    studies = {study.name: study for study in record.studies()}
    if space not in studies:
        raise RunError(
            f"run {record.name!r} has no space {space!r}; {nearest(space, studies, 'it has')}",
            exit_code=2,
        )
    return studies[space]


def sparkline(values: Sequence[float | None], width: int, bars: str = BARS) -> str:
    """Return the values as bars, from the least to the greatest.

    Args:
        values: one value per bar; None is drawn as `x`.
        width: the most bars; of more values an even selection is shown, with the last one.
        bars: the characters of the bars, the lowest first.
    """
    if len(values) > width:
        values = [values[-1 - round(k * (len(values) - 1) / (width - 1))] for k in range(width)]
        values = values[::-1]
    finite = [value for value in values if value is not None]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(bars) - 1) / (high - low) if high > low else 0.0
    return "".join("x" if v is None else bars[round((v - low) * scale)] for v in values)


def _found(record: Reader, reference: str) -> tuple[StudyRow, TrialRow]:
    parts = re.fullmatch(r"(?:(.+):)?([rs]?)(\d{1,9})", reference)
    if parts is None:
        raise RunError(
            f"{reference!r} names no trial; write its number (5), with its space if there are "
            "several (sam:5), r2 for repeat 2 or s2 for select run 2; `samtune trials` lists all",
            exit_code=2,
        )
    space, repeat, digits = parts.groups()
    stages: dict[str, Stage] = {"": "search", "s": "select", "r": "confirm"}
    stage = stages[repeat]
    number = int(digits)
    studies = [study_called(record, space)] if space else record.studies()
    names = {study.study: study.name for study in studies}
    of_stage = [trial for trial in record.trials(stage=stage) if trial.study in names]
    exact = [trial for trial in of_stage if trial.number == number]
    if len(exact) == 1:
        (trial,) = exact
        return next(study for study in studies if study.study == trial.study), trial
    if exact:
        choices = " or ".join(f"{names[trial.study]}:{repeat}{number}" for trial in exact)
        raise RunError(
            f"{len(exact)} spaces have a trial {reference!r}; write {choices}", exit_code=2
        )
    near = min(of_stage, key=lambda trial: abs(trial.number - number), default=None)
    hint = (
        f"the nearest is {names[near.study]}:{label(stage, near.number)}"
        if near
        else "it has no repeats yet"
        if repeat
        else "it has no trials yet"
    )
    raise RunError(f"run {record.name!r} has no trial {reference!r}; {hint}", exit_code=2)
