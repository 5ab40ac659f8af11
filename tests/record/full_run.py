"""A small run that measures everything a trial can measure."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from test_record import CONFIG, STUDY

from samtune.record.columns import BESIDE
from samtune.record.record import Record
from samtune.record.rows import Verdict
from samtune.space.search_space import SearchSpace

FACTS = {
    **{"n_train": 1000, "n_val": 200, "n_params": 10, "device": "cpu", "threads": 1},
    **{"deterministic": True, "precision": "fp32", "compiled": False, "channels_last": False},
    **{"hostname_hash": "h", "torch_version": "2", "data_sha256": "d" * 64, "test_split": "t"},
}
COSTS = {
    **{"step": 16, "see": 2.0, "forward_samples": 9, "backward_samples": 9, "lr": 0.1},
    **{
        "rho": 0.05,
        "sam_loss_gap": 0.1,
        "cos_grads": 0.9,
        "train_s": 1.0,
        "eval_s": 1.0,
        "data_s": 1.0,
    },
    **{"peak_rss_mb": 9.0, "peak_gpu_mb": 9.0, "train_loss": 0.1, "train_acc": 0.9},
    **{"val_loss_averaged": 0.2, "val_acc_averaged": 0.8},
}
SHARPNESS = {
    **{"sharp_lambda_max": 1.0, "sharp_trace": 9.0, "sharp_worst_rho": 0.1},
    **{"sharp_worst_adaptive": 0.1, "sharp_samples": 9, "sharp_m": 3, "sharp_rho": 0.1},
    "sharp_bn_mode": "eval",
}
AIMS = {"aims": {"val_acc": "max", "see": "min"}, "constraints": {"s_per_step": 0.2}}
TEST = {"test_loss": 0.1, "test_nll": 0.1, "test_ece": 0.1, "test_brier": 0.1, "n_test": 500}
TEST |= dict.fromkeys(BESIDE, 0.1)


def make(runs: Path, name: str = "all", searches: int = 1, draws: int = 0) -> Path:
    """Make a run of sgd and sam, three repeats per search, and return its folder.

    With `draws` its searches are random and have so many trials more, and each stop is audited.
    """
    settings = json.loads(STUDY["settings"]) | {"margin": 0.01, **AIMS}
    settings |= {"search_alg": "random", "searched": ["lr", "rho"]} if draws else {}
    members = [(row, search) for row in ("sgd", "sam") for search in range(searches)]
    studies = []
    for row, search in members:
        space = SearchSpace.load(row)
        own = {"row": row, "search": search}
        studies.append(
            {"name": f"{row}-{search}", "variant": row, "base": "sgd", "space": space.text}
            | {"sha256": space.sha256, "settings": json.dumps(settings | own)}
        )
    with Record.create(runs, name, studies) as record:
        for study, (row, search) in enumerate(members):
            config = dataclasses.replace(CONFIG, variant=row)
            best = _trial(record, (study, "search", 0), "default", config, 0.9)
            stopped = "audit" if draws else "stop"
            _trial(record, (study, "search", 1), "sampled", config, 0.8, stopped)
            for k in range(draws):
                knobs = dict(config.knobs, rho=0.01 * (k + 1))
                own = dataclasses.replace(config, knobs=knobs)
                _trial(record, (study, "search", 2 + k), "sampled", own, 0.7 + k / 1000)
            more = {"source": best, "rank": 0}
            _trial(record, (study, "select", 0), "repeat", config, 0.88, bundle=-1, **more)
            for k in range(3):
                sam = row == "sam"
                score = 0.7 + sam / 5 + (k + search) / 100 * (1 + sam)
                bundle = 100 * search + k
                where = (study, "confirm", k)
                _trial(record, where, "repeat", config, score, bundle=bundle, **more)
        repeats = [trial for trial in record.trials() if trial.stage == "confirm"]
        record.set_meta("sharpness", {trial.key: SHARPNESS for trial in repeats})
        record.set_meta("plan", "looks 3")
    return record.folder


def _bits(share: float, seed: int) -> str:
    """Say that a share of 500 test images, drawn by the seed, are classified rightly."""
    right = np.random.default_rng(seed).permutation(500) < round(500 * share)
    return base64.b64encode(np.packbits(right)).decode()


def _trial(
    record: Record,
    where: tuple[int, Any, int],
    origin: str,
    config: Any,
    value: float,
    stopped: str = "",
    **more: Any,
) -> int:
    study, stage, number = where
    trial = record.add_trial(study, stage, number, origin, config, **more)
    attempt, permit = record.start_attempt(trial)
    for epoch in (1, 2):
        metrics: dict[str, float] = {**COSTS, "val_acc": value - 0.1 / epoch, "val_loss": 0.2}
        if permit and epoch == 2:
            metrics |= TEST | {"test_acc": value, "test_correct": round(500 * value)}
        facts = FACTS | ({"test_bits": _bits(value, trial.trial)} if permit else {})
        report = {"epoch": epoch, "used": 10.0 * epoch, "metrics": metrics, "facts": facts}
        report |= {"checkpoint": "c", "checkpoint_sha256": "e" * 64}
        seq = record.add_report(trial.trial, attempt, report, config.metric)
        if stage == "search":
            decision = "stop" if stopped and epoch == 2 else "continue"
            if audited := stopped == "audit" and epoch == 2:
                decision = "continue"
            record.add_decision(seq, Verdict(decision, epoch - 1, 10.0 * epoch, 0.5, audited))
    ended = "pruned" if stopped == "stop" else "completed"
    state, reason = (ended, "stopped at rung 1" if stopped else None)
    record.end_trial(trial.trial, state, reason, wall_s=1.0)
    return trial.trial
