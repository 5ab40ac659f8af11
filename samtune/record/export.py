"""The Parquet tables of a run, made from its record; they can be made again at any time.

Reports go from SQLite to Parquet in columns, some ten thousand at a time, so a run of millions
is exported in seconds and in constant memory. What the other tables need of them is kept, a few
numbers a trial.
"""

from __future__ import annotations

import datetime
import io
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samtune.record import tables
from samtune.record.record import Record
from samtune.record.rows import StudyRow, TrialRow, canonical

if TYPE_CHECKING:
    import pyarrow as pa

_TEST = ("test_acc", "test_loss", "test_nll", "test_ece", "n_test", "test_correct")
_CURVES = (
    *("step", "see", "train_s", "lr", "rho", "train_loss", "train_acc", "val_loss", "val_acc"),
    *("grad_norm", "perturb_norm", "sam_loss_gap", "cos_grads"),
)
_REPORTS_AT_ONCE = 20_000


def export(record: Record, folder: Path | None = None) -> list[Path]:
    """Writes trials, curves and repeats into the run's folder or another; returns their paths.

    Raises RunError when the record is damaged, and OSError when they cannot be written.
    """
    record.verify()
    folder = record.folder if folder is None else folder
    studies, trials = record.studies(), list(record.trials())
    metadata = {
        "samtune.version": str(record.meta("samtune_version")),
        "samtune.run": record.name,
        "samtune.space_sha256": ",".join(study.sha256 for study in studies),
        "samtune.data_sha256": next(
            (str(t.facts["data_sha256"]) for t in trials if "data_sha256" in t.facts), ""
        ),
    }
    knobs: dict[str, list[Any]] = {}
    for trial in trials:
        for knob, value in trial.config.knobs.items():
            knobs.setdefault(knob, []).append(value)
    curves = _Curves(record, trials)
    tables.write(folder / "curves.parquet", "curves", curves, metadata=metadata)
    tables.write(
        folder / "trials.parquet",
        "trials",
        _trials(record, studies, trials, curves.ends),
        knobs=knobs,
        metadata=metadata,
    )
    repeats = _repeats(record, studies, trials, curves.ends)
    tables.write(folder / "repeats.parquet", "repeats", repeats, metadata=metadata)
    return [folder / f"{table}.parquet" for table in ("trials", "curves", "repeats")]


@dataclass
class _End:
    """What a trial's reports came to."""

    metrics: dict[str, float] = field(default_factory=dict)
    used: float = 0.0
    checkpoint_sha256: str | None = None
    epoch: int = 0
    repeated: int = 0
    rung: int | None = None
    rung_value: float | None = None
    best_val_acc: float | None = None
    best_epoch: int | None = None


class _Curves:
    """The rows of the table curves, in batches; `ends` fills up as they are made."""

    def __init__(self, record: Record, trials: Sequence[TrialRow]) -> None:
        self._record = record
        self._known = {trial.trial: (trial.key, trial.stage) for trial in trials}
        self.ends: dict[int, _End] = {}

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        cursor = self._record.query(
            "SELECT trial, attempt, epoch, used, value, metrics, checkpoint_sha256, at, decision,"
            " rung, cutoff FROM reports LEFT JOIN decisions USING (seq) ORDER BY trial, seq"
        )
        cursor.row_factory = None
        rows: list[tuple[Any, ...]] = []
        while fresh := cursor.fetchmany(_REPORTS_AT_ONCE):
            rows += fresh
            # A trial is not cut in two: the last one waits for its other reports.
            last = rows[-1][0]
            whole = next((k for k in range(len(rows), 0, -1) if rows[k - 1][0] != last), 0)
            if whole:
                yield self._batch(rows[:whole])
                del rows[:whole]
        if rows:
            yield self._batch(rows)

    def _batch(self, rows: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
        import numpy as np
        import pyarrow as pa
        from pyarrow import json as arrow_json

        names = (
            *("trial", "attempt", "epoch", "used", "value", "metrics", "sha256", "at"),
            *("decision", "rung", "rung_cutoff"),
        )
        columns: dict[str, Any] = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        metrics = arrow_json.read_json(
            io.BytesIO("\n".join(columns["metrics"]).encode()),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=pa.schema([(name, pa.float64()) for name in _CURVES]),
                unexpected_field_behavior="ignore",
            ),
        ).combine_chunks()
        columns |= {name: metrics[name].combine_chunks() for name in _CURVES}
        bounds = [0, *(np.flatnonzero(np.diff(columns["trial"])) + 1).tolist(), len(rows)]
        accuracy = columns["val_acc"].to_numpy(zero_copy_only=False)
        accuracy = np.where(np.isfinite(accuracy), accuracy, -np.inf)
        judged = {
            columns["trial"][k]: k for k, rung in enumerate(columns["rung"]) if rung is not None
        }
        columns |= {"superseded": [], "trial_key": [], "stage": []}
        for start, end in itertools.pairwise(bounds):
            trial, length = columns["trial"][start], end - start
            newest = dict(
                zip(columns["epoch"][start:end], columns["attempt"][start:end], strict=True)
            )
            columns["superseded"] += [
                len(newest) < length and columns["attempt"][k] < newest[columns["epoch"][k]]
                for k in range(start, end)
            ]
            key, stage = self._known[trial]
            columns["trial_key"] += [key] * length
            columns["stage"] += [stage] * length
            best = start + int(accuracy[start:end].argmax())
            had = math.isfinite(accuracy[best])
            at_rung = judged.get(trial)
            self.ends[trial] = _End(
                metrics=_finite(json.loads(columns["metrics"][end - 1])),
                used=columns["used"][end - 1],
                checkpoint_sha256=columns["sha256"][end - 1],
                epoch=max(newest),
                repeated=length - len(newest),
                rung=None if at_rung is None else columns["rung"][at_rung],
                rung_value=None if at_rung is None else columns["value"][at_rung],
                best_val_acc=float(accuracy[best]) if had else None,
                best_epoch=columns["epoch"][best] if had else None,
            )
        columns["run"] = [self._record.name] * len(rows)
        # In two parts: the product of the whole would be rounded once too often.
        part, second = np.modf(np.array(columns["at"]))
        columns["reported_at"] = (second * 1e6 + np.rint(part * 1e6)).astype(np.int64)
        return tables.batch(tables.schema("curves"), len(rows), columns)


def _trials(
    record: Record,
    studies: Sequence[StudyRow],
    trials: Sequence[TrialRow],
    ends: Mapping[int, _End],
) -> Iterator[dict[str, Any]]:
    attempts = {
        row["trial"]: (row["count"], row["wall_s"] or 0.0)
        for row in record.query(
            "SELECT trial, COUNT(*) AS count, SUM(wall_s) AS wall_s FROM attempts GROUP BY trial"
        )
    }
    written_by = {name: record.meta(name) for name in ("samtune_version", "git_commit")}
    for trial in trials:
        if trial.stage != "search":
            continue
        settings = studies[trial.study].settings
        count, wall_s = attempts.get(trial.trial, (0, 0.0))
        yield {
            "run": record.name,
            "study": trial.study,
            "space": studies[trial.study].name,
            **_task(trial),
            **{k: settings[k] for k in ("search_alg", "scheduler")},
            "knobs_searched": json.dumps(settings["searched"]),
            **_trial(trial, ends.get(trial.trial, _End())),
            "wall_s": wall_s,
            "attempts": count,
            **written_by,
        }


def _repeats(
    record: Record,
    studies: Sequence[StudyRow],
    trials: Sequence[TrialRow],
    ends: Mapping[int, _End],
) -> Iterator[dict[str, Any]]:
    keys = {trial.trial: trial.key for trial in trials}
    state = {trial.trial: trial.state for trial in trials}
    # A repeat that ended without an opening reported none; one that was cut short may have had it.
    openings = Counter(
        opening["trial"]
        for opening in record.openings()
        if opening["used_at"] or state[opening["trial"]] in {"running", "cancelled", "error"}
    )
    names = ("val_acc", "val_loss", "see", "train_s", *_TEST)
    for trial in trials:
        if trial.stage != "confirm":
            continue
        assert trial.source is not None
        end = ends.get(trial.trial, _End())
        yield {
            "run": record.name,
            "study": trial.study,
            "space": studies[trial.study].name,
            **_task(trial),
            "source_trial_key": keys[trial.source],
            "rank_in_search": trial.rank,
            "seed_bundle": trial.bundle,
            "test_openings": openings[trial.trial],
            **{name: end.metrics.get(name) for name in names},
            "ckpt_sha256": end.checkpoint_sha256,
        }


def _task(trial: TrialRow) -> dict[str, Any]:
    config = trial.config
    return {
        "variant": config.variant,
        "base_optimizer": config.base,
        "dataset": str(config.task.get("dataset", "")),
        "model": str(config.task.get("model", "")),
        "label_noise": float(config.task.get("label_noise", 0.0)),
        "augment": _augment(config.task),
        "task": canonical(dict(config.task)),
        "budget_kind": config.budget.kind,
        "budget_max": config.budget.per_trial,
        "config_sha": trial.config_sha,
        "state": trial.state,
    }


def _augment(task: Mapping[str, Any]) -> str:
    """All that is done to training images and targets: `cutout, mixup 0.2`."""
    loss_side = ("mixup", "cutmix", "label_smoothing")
    words = [f"{word} {task[word]:g}" for word in loss_side if task.get(word)]
    return ", ".join([str(task.get("augment", "none")), *words])


def _trial(trial: TrialRow, end: _End) -> dict[str, Any]:
    config, facts, last, used = trial.config, trial.facts, end.metrics, end.used
    steps = int(last.get("step", 0))
    return {
        "trial": trial.number,
        "trial_key": trial.key,
        "stage": trial.stage,
        "config_json": canonical({"base": config.base, "knobs": dict(config.knobs)}),
        "origin": trial.origin,
        "seed_init": config.seeds.init,
        "seed_order": config.seeds.order,
        "seed_split": config.seeds.split,
        "seed_sampler": config.seeds.init,
        # The full schedule in steps, from the share of it that was used.
        "horizon_steps": round(steps * config.budget.per_trial / used) if used else None,
        "state_reason": trial.reason,
        "rung_reached": end.rung,
        "rung_value": end.rung_value,
        "epochs_done": end.epoch,
        "steps_done": steps,
        "see": last.get("see", 0.0),
        "fwd_samples": int(last.get("forward_samples", 0)),
        "bwd_samples": int(last.get("backward_samples", 0)),
        **{name: last.get(name, 0.0) for name in ("train_s", "eval_s", "data_s")},
        **{name: last.get(name) for name in ("peak_rss_mb", "peak_gpu_mb")},
        **{name: last.get(name) for name in ("val_acc", "val_loss", "train_acc", "train_loss")},
        "best_val_acc": end.best_val_acc,
        "best_epoch": end.best_epoch,
        "epochs_repeated": end.repeated,
        "ckpt_sha256": end.checkpoint_sha256,
        **{
            name: facts.get(name)
            for name in (
                *("n_train", "n_val", "n_params", "device", "threads", "deterministic"),
                *("precision", "compiled", "channels_last"),
                *("hostname_hash", "torch_version"),
            )
        },
        "started_at": _time(trial.proposed_at),
        "ended_at": trial.ended_at and _time(trial.ended_at),
        **{f"knob.{name}": value for name, value in config.knobs.items()},
    }


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics without those of a diverged trial: a mean over a column must not become NaN."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
