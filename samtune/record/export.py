"""The Parquet tables of a run, made from its record. They can be made again at any time."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from samtune.record import tables
from samtune.record.curves import Curves, End, metric_columns
from samtune.record.front import standing
from samtune.record.reader import Reader
from samtune.record.rows import Stage, StudyRow, TrialRow, canonical
from samtune.space.aims import measured
from samtune.values import bits

# Metrics that trials hold under other names.
_RENAMED = {
    "step": "steps_done",
    "forward_samples": "fwd_samples",
    "backward_samples": "bwd_samples",
}
# The tables of the stages that run configurations again, on fresh seeds.
_FRESH_SEEDS: dict[str, Stage] = {"selects": "select", "repeats": "confirm"}
_TABLES = {stage: table for table, stage in _FRESH_SEEDS.items()}
_COUNTS = ("n_test", "test_correct", "sharp_samples", "sharp_m")
_FACTS = (
    *("n_train", "n_val", "n_params", "device", "threads", "deterministic"),
    *("precision", "compiled", "channels_last", "hostname_hash", "torch_version"),
)


def export(record: Reader, folder: Path | None = None) -> list[Path]:
    """Write trials, curves, selects and repeats, and return their paths.

    Args:
        record: the run.
        folder: where to write them; the run's own folder by default.

    Raises:
        RunError: the record is damaged.
        OSError: a table cannot be written.
    """
    record.verify()
    with record.snapshot():
        return _export(record, record.folder if folder is None else folder)


def _export(record: Reader, folder: Path) -> list[Path]:
    run = _Run(record)
    metadata = run.metadata()
    names = record.metrics()
    curves = Curves(record, run.trials, run.mode)
    tables.write(folder / "curves.parquet", curves.schema, curves, metadata)
    trials = tables.schema(
        "trials",
        floats=[
            *metric_columns("trials", [name for name in names if name not in _RENAMED]).values(),
            f"best_{run.metric}",
        ],
        knobs=run.knobs(),
    )
    tables.write(folder / "trials.parquet", trials, run.searched(curves.ends, trials), metadata)
    for table, stage in _FRESH_SEEDS.items():
        typed = tables.schema(table, floats=metric_columns(table, names).values())
        tables.write(folder / f"{table}.parquet", typed, run.again(stage, curves.ends), metadata)
    return [folder / f"{table}.parquet" for table in ("trials", "curves", *_FRESH_SEEDS)]


class _Run:
    """The rows of a run's trials and repeats."""

    def __init__(self, record: Reader) -> None:
        self._record = record
        self.studies = record.studies()
        self.trials = list(record.trials())
        self._known = {word for trial in self.trials for word in trial.config.task}
        self._tasks: dict[int, dict[str, Any]] = {}
        # Of `samtune sharpness`, after the repeats; the columns of each by its trial's key.
        self.sharpness: dict[str, dict[str, Any]] = record.meta("sharpness") or {}
        # The spaces of a run agree on both.
        self.mode = next((study.settings["mode"] for study in self.studies), "max")
        self.metric = next((trial.config.metric for trial in self.trials), "val_acc")

    def metadata(self) -> dict[str, str]:
        """Return where the tables come from, and how long each study searched (s)."""
        seconds = {
            str(study.study): self._record.seconds_worked(study=study.study, stage="search")
            for study in self.studies
        }
        ranges = {
            (name, *reach)
            for study in self.studies
            for name, reach in study.settings.get("ranges", {}).items()
        }
        facts = (trial.facts.get("data_sha256") for trial in self.trials)
        names = {str(study.study): study.name for study in self.studies}
        ends, raced = (self._record.meta(key) or {} for key in ("ends", "raced"))
        return {
            "samtune.baseline": next((s.settings.get("baseline", "") for s in self.studies), ""),
            "samtune.version": str(self._record.meta("samtune_version")),
            "samtune.run": self._record.name,
            "samtune.space_sha256": ",".join(study.sha256 for study in self.studies),
            "samtune.data_sha256": str(next((sha for sha in facts if sha), "")),
            "samtune.ranges": json.dumps(sorted(ranges)),
            "samtune.search_wall_s": json.dumps(seconds),
            "samtune.ended_early": json.dumps({names[study]: why for study, why in ends.items()}),
            "samtune.raced": json.dumps({names[study]: row for study, row in raced.items()}),
        }

    def knobs(self) -> dict[str, list[Any]]:
        """Return the values of each knob."""
        found: dict[str, list[Any]] = {}
        for trial in self.trials:
            for knob, value in trial.config.knobs.items():
                found.setdefault(knob, []).append(value)
        return found

    def searched(self, ends: Mapping[int, End], typed: Any) -> Iterator[dict[str, Any]]:
        """Yield a row per trial of the search."""
        standings = self._standings(ends)
        attempts = self._record.attempt_counts()
        written_by = {name: self._record.meta(name) for name in ("samtune_version", "git_commit")}
        for trial in self.trials:
            if trial.stage != "search":
                continue
            settings = self.studies[trial.study].settings
            count, wall_s = attempts.get(trial.trial, (0, 0.0))
            yield {
                **self._task(trial),
                **{name: settings[name] for name in ("search_alg", "scheduler")},
                "knobs_searched": json.dumps(settings["searched"]),
                **standings[trial.trial],
                **_trial(trial, ends.get(trial.trial, End())),
                **_facts(trial, typed),
                "wall_s": wall_s,
                "attempts": count,
                **written_by,
            }

    def _standings(self, ends: Mapping[int, End]) -> dict[int, dict[str, Any]]:
        """Return what the aims of its search say of each of its trials."""
        last = {trial: end.metrics for trial, end in ends.items()}
        found: dict[int, dict[str, Any]] = {}
        for study in self.studies:
            own = [t for t in self.trials if t.study == study.study and t.stage == "search"]
            aims = study.aims
            metrics: dict[str, str] = {**aims.metrics} or {self.metric: self.mode}
            said = {"aims": json.dumps(metrics), "constraints": json.dumps(aims.limits)}
            for trial, stands in standing(own, last, aims).items():
                found[trial] = {**said, **stands}
        return found

    def again(self, stage: Stage, ends: Mapping[int, End]) -> Iterator[dict[str, Any]]:
        """Yield a row per trial of a stage that runs configurations again, on fresh seeds."""
        keys = {trial.trial: trial.key for trial in self.trials}
        plan = self._record.meta("plan")
        openings = Counter(
            opening["trial"] for opening in self._record.openings() if opening["used_at"]
        )
        for trial in self.trials:
            if trial.stage != stage:
                continue
            assert trial.source is not None
            end = ends.get(trial.trial, End())
            columns = metric_columns(_TABLES[stage], end.metrics)
            yield {
                **self._task(trial),
                "trial_key": trial.key,
                "source_trial_key": keys[trial.source],
                "rank_in_search": trial.rank,
                "seed_bundle": trial.bundle,
                "with_search": self.studies[trial.study].settings.get("with_search", False),
                "plan": "added" if trial.origin == "added" else plan,
                "test_openings": openings[trial.trial],
                **{columns[name]: value for name, value in end.metrics.items()},
                **{name: whole(end.metrics.get(name)) for name in _COUNTS},
                "test_bits": bits(trial.facts.get("test_bits")),
                "test_split": trial.facts.get("test_split"),
                "ckpt_sha256": end.checkpoint_sha256,
                "sharp_bn_mode": trial.facts.get("sharp_bn_mode"),
                **self.sharpness.get(trial.key, {}),
            }

    def _task(self, trial: TrialRow) -> dict[str, Any]:
        study: StudyRow = self.studies[trial.study]
        config, task = trial.config, self._words(trial)
        noise = task.get("label_noise")
        return {
            "run": self._record.name,
            "study": trial.study,
            "space": study.settings.get("row", study.name),
            "search": study.settings.get("search", 0),
            "variant": config.variant,
            "base_optimizer": config.base,
            "dataset": str(task.get("dataset", "")),
            "model": str(task.get("model", "")),
            "label_noise": float(noise) if isinstance(noise, int | float) else None,
            "augment": _augment(task),
            "task": canonical(task),
            "budget_kind": config.budget.kind,
            "budget_max": config.budget.per_trial,
            "metric": config.metric,
            "mode": study.settings["mode"],
            "tie_margin": study.settings.get("margin"),
            "config_sha": trial.config_sha,
            "state": trial.state,
        }

    def _words(self, trial: TrialRow) -> dict[str, Any]:
        """Return a trial's task, with the words that samtune has learnt since it was made.

        A run that was continued has these words in its spaces. Without them, its earlier and its
        later trials would answer different questions.
        """
        task = dict(trial.config.task)
        if self._known <= task.keys():
            return task
        if trial.study not in self._tasks:
            frozen = yaml.safe_load(self.studies[trial.study].space)
            self._tasks[trial.study] = frozen.get("task") or {}
        later = self._tasks[trial.study]
        return {word: later[word] for word in self._known & later.keys()} | task


def _augment(task: Mapping[str, Any]) -> str:
    """Return the changes made to training images and targets as text: `cutout, mixup 0.2`."""
    loss_side = ("mixup", "cutmix", "label_smoothing")
    words = [f"{word} {task[word]}" for word in loss_side if task.get(word)]
    return ", ".join([str(task.get("augment", "none")), *words])


def _trial(trial: TrialRow, end: End) -> dict[str, Any]:
    config, last = trial.config, end.metrics
    steps = whole(last.get("step")) or 0
    columns = metric_columns("trials", last)
    return {
        "trial": trial.number,
        "trial_key": trial.key,
        "stage": trial.stage,
        "config_json": canonical({"base": config.base, "knobs": dict(config.knobs)}),
        "origin": trial.origin,
        "seed_init": config.seeds.init,
        "seed_order": config.seeds.order,
        "seed_split": config.seeds.split,
        # The steps of the full schedule, from the share of the budget that was used.
        "horizon_steps": whole(steps * config.budget.per_trial / end.used) if end.used else None,
        "state_reason": trial.reason,
        "rung_reached": end.rung,
        "rung_value": end.rung_value,
        "first_rung_value": end.first_rung_value,
        "audited": end.audited,
        "epochs_done": end.epoch,
        **dict.fromkeys(("see", "train_s", "eval_s", "data_s"), 0.0),
        "s_per_step": measured("s_per_step", last),
        **{columns[name]: value for name, value in last.items() if name not in _RENAMED},
        **{column: whole(last.get(name)) or 0 for name, column in _RENAMED.items()},
        f"best_{config.metric}": end.best,
        "best_epoch": end.best_epoch,
        "epochs_repeated": end.repeated,
        "ckpt_sha256": end.checkpoint_sha256,
        "started_at": _time(trial.proposed_at),
        "ended_at": trial.ended_at and _time(trial.ended_at),
        **{f"knob.{name}": value for name, value in config.knobs.items()},
    }


def _facts(trial: TrialRow, typed: Any) -> dict[str, Any]:
    """Return the facts that have a column; one whose type does not fit there is left out."""
    import pyarrow as pa

    found: dict[str, Any] = {}
    for name in _FACTS:
        fact = trial.facts.get(name)
        # Arrow raises for some values that do not fit, and cuts off the fraction of others.
        with contextlib.suppress(pa.ArrowException, TypeError, ValueError, OverflowError):
            if pa.scalar(fact, typed.field(name).type).as_py() == fact:
                found[name] = fact
    return found


def whole(value: float | None) -> int | None:
    """Return a reported number as an integer; None for one that 64 bits cannot hold."""
    if value is None or not math.isfinite(value) or abs(value) >= 2**62:
        return None
    return round(value)


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
