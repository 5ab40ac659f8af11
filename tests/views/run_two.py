"""A small run that is made without Ray, for the tests of views."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typed import typed

from samtune.record.record import Record
from samtune.record.rows import Stage, State, TrialRow
from samtune.search.rungs import StoppingRungs
from samtune.space.search_space import SearchSpace
from samtune.trial import Seeds, TrialConfig

SETTINGS = {
    **{"search_alg": "tpe", "scheduler": "asha 2 x 3", "mode": "max", "trials": 3},
    "searched": ["lr", "rho"],
}


KNOBS = {"momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}


def message(epoch: int, value: float, **metrics: float) -> dict[str, Any]:
    more = {"see": 2.0 * epoch, "step": 16 * epoch, "train_loss": 1 / epoch, **metrics}
    return {
        **{"epoch": epoch, "used": 2.0 * epoch, "metrics": {"val_acc": value, **more}},
        **{"checkpoint": None, "checkpoint_sha256": None, "facts": {"device": "cpu"}},
    }


def add(
    record: Record, study: int, number: int, values: list[float], state: State, **more: Any
) -> TrialRow:
    """Add a trial with a report per value, judged by one set of rungs per study."""
    space = SearchSpace.from_text(record.studies()[study].space, "x", "x")
    knobs = {"lr": round(0.1 * (number + 1), 1), **KNOBS}
    if space.variant == "sam":
        knobs["rho"] = 0.05
    config = TrialConfig(
        **{"trainable": space.trainable, "variant": space.variant, "base": space.base},
        **{"knobs": knobs, "task": space.task, "budget": space.trial_budget},
        seeds=Seeds(1, 1, 1),
    )
    stage: Stage = "confirm" if "source" in more else "search"
    trial = record.add_trial(study, stage, number, "sampled", config, **more)
    attempt, _ = record.start_attempt(trial)
    rungs = RUNGS.setdefault((record.folder, study), StoppingRungs(2, 3, 20))
    for epoch, value in enumerate(values, 1):
        seq = record.add_report(trial.trial, attempt, message(epoch, value), "val_acc")
        record.add_decision(seq, rungs.judge(trial.trial, 2.0 * epoch, value))
    if state != "running":
        record.end_trial(trial.trial, state, "why not" if state == "error" else None, 2.5)
    return trial


RUNGS: dict[Any, StoppingRungs] = {}


def make_two(runs: Path) -> Path:
    """Make the run `two`: sgd and sam are searched, and sgd's winner is repeated twice."""
    spaces = [SearchSpace.load(name) for name in ("sgd", "sam")]
    studies = [
        {
            **{"name": s.name, "variant": s.variant, "base": s.base, "space": s.text},
            **{"sha256": s.sha256, "settings": json.dumps(SETTINGS)},
        }
        for s in spaces
    ]
    with Record.create(runs, "two", studies) as record:
        best = add(record, 0, 0, [0.5, 0.7, 0.8], "completed")
        add(record, 1, 0, [0.6, 0.7, 0.9], "completed")
        add(record, 0, 1, [0.4], "pruned")
        add(record, 1, 1, [0.3, float("nan")], "diverged")
        failed = add(record, 0, 2, [], "error")
        record.add_event("error", "Traceback ...\nRuntimeError: too steep", failed.trial)
        for bundle in (0, 1):
            values = [0.6, (7 + bundle) / 10]
            more = {"source": best.trial, "rank": 0, "bundle": bundle}
            add(record, 0, bundle + 1, values, "completed", **more)
    return runs


def said(capsys: pytest.CaptureFixture[str], two: Path, *words: str) -> str:
    code, out, err = typed(capsys, *words, "--runs", str(two))
    assert code == 0 and err == "", err
    return out
