"""The Parquet tables of a run, made from its record; they can be made again at any time."""

from __future__ import annotations

import datetime
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samtune import tables
from samtune.record import Record, ReportRow, TrialRow, canonical

_TEST = ("test_acc", "test_loss", "test_nll", "test_ece", "n_test", "test_correct")


def export(record: Record) -> list[Path]:
    """Writes trials, curves and repeats; returns their paths."""
    trials = list(record.trials())
    reports: dict[int, list[ReportRow]] = defaultdict(list)
    for report in record.reports():
        reports[report.trial].append(report)
    attempts = defaultdict(list)
    for attempt in record.attempts():
        attempts[attempt["trial"]].append(attempt)
    keys = {trial.trial: trial.key for trial in trials}
    studies = record.studies()
    state = {trial.trial: trial.state for trial in trials}
    # A repeat that ended without an opening reported none; one that was cut short may have had it.
    openings = Counter(
        opening["trial"]
        for opening in record.openings()
        if opening["used_at"] or state[opening["trial"]] in {"running", "cancelled", "error"}
    )
    common = {"run": record.name}

    search: list[dict[str, Any]] = []
    repeats: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for trial in trials:
        own = reports[trial.trial]
        row = common | {"study": trial.study, "space": studies[trial.study].name} | _task(trial)
        if trial.stage == "confirm":
            assert trial.source is not None
            row |= {"source_trial_key": keys[trial.source], "test_openings": openings[trial.trial]}
            repeats.append(row | _repeat(trial, own))
        else:
            settings = studies[trial.study].settings
            row |= {k: settings[k] for k in ("search_alg", "scheduler")}
            row |= {"knobs_searched": json.dumps(settings["searched"])}
            search.append(row | _trial(trial, own, attempts[trial.trial], record))
        curves.extend(common | curve for curve in _curve(trial, own))

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
    written = []
    for table, rows in {"trials": search, "curves": curves, "repeats": repeats}.items():
        path = record.folder / f"{table}.parquet"
        wide = knobs if table == "trials" else None
        tables.write(path, table, rows, knobs=wide, metadata=metadata)
        written.append(path)
    return written


def _task(trial: TrialRow) -> dict[str, Any]:
    config = trial.config
    return {
        "variant": config.variant,
        "base_optimizer": config.base,
        "dataset": str(config.task.get("dataset", "")),
        "model": str(config.task.get("model", "")),
        "label_noise": float(config.task.get("label_noise", 0.0)),
        "augment": _augment(config.task),
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


def _repeat(trial: TrialRow, reports: list[ReportRow]) -> dict[str, Any]:
    last = _finite(reports[-1].metrics) if reports else {}
    names = ("val_acc", "val_loss", "see", "train_s", *_TEST)
    return {name: last.get(name) for name in names} | {
        "rank_in_search": trial.rank,
        "seed_bundle": trial.bundle,
        "ckpt_sha256": reports[-1].checkpoint_sha256 if reports else None,
    }


def _trial(
    trial: TrialRow, reports: list[ReportRow], attempts: list[Any], record: Record
) -> dict[str, Any]:
    config, facts = trial.config, trial.facts
    last = _finite(reports[-1].metrics) if reports else {}
    used = reports[-1].used if reports else 0.0
    judged = [report for report in reports if report.rung is not None]
    best = max(reports, key=lambda r: r.metrics.get("val_acc", -math.inf), default=None)
    epochs = {report.epoch for report in reports}
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
        "rung_reached": judged[-1].rung if judged else None,
        "rung_value": judged[-1].value if judged else None,
        "epochs_done": max(epochs, default=0),
        "steps_done": steps,
        "see": last.get("see", 0.0),
        "fwd_samples": int(last.get("forward_samples", 0)),
        "bwd_samples": int(last.get("backward_samples", 0)),
        **{name: last.get(name, 0.0) for name in ("train_s", "eval_s", "data_s")},
        "wall_s": sum(attempt["wall_s"] or 0.0 for attempt in attempts),
        **{name: last.get(name) for name in ("peak_rss_mb", "peak_gpu_mb")},
        **{name: last.get(name) for name in ("val_acc", "val_loss", "train_acc", "train_loss")},
        "best_val_acc": _finite(best.metrics).get("val_acc") if best else None,
        "best_epoch": best.epoch if best else None,
        "attempts": len(attempts),
        "epochs_repeated": len(reports) - len(epochs),
        "ckpt_sha256": reports[-1].checkpoint_sha256 if reports else None,
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
        "samtune_version": record.meta("samtune_version"),
        "git_commit": record.meta("git_commit"),
        **{f"knob.{name}": value for name, value in config.knobs.items()},
    }


def _curve(trial: TrialRow, reports: list[ReportRow]) -> list[dict[str, Any]]:
    newest = {report.epoch: report.attempt for report in reports}
    shown = ("see", "train_s", "lr", "rho", "train_loss", "train_acc", "val_loss", "val_acc")
    return [
        {name: report.metrics.get(name) for name in shown}
        | {
            "trial_key": trial.key,
            "stage": trial.stage,
            "attempt": report.attempt,
            "epoch": report.epoch,
            "step": int(report.metrics["step"]) if "step" in report.metrics else None,
            "used": report.used,
            "rung": report.rung,
            "decision": report.decision,
            "rung_cutoff": report.cutoff,
            "superseded": report.attempt < newest[report.epoch],
            "reported_at": _time(report.at),
        }
        for report in reports
    ]


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics without those of a diverged trial: a mean over a column must not become NaN."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
