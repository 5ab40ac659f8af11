"""A run of one space that is made without Ray, for the tests of observers and exports."""

from __future__ import annotations

import json
from pathlib import Path

from samtune.record.record import Record
from samtune.record.rows import State, Verdict
from samtune.space.search_space import SearchSpace
from samtune.trial import Seeds, TrialConfig

SPACE = """samtune: 1
trainable: lab:quick
budget: {kind: epochs, per_trial: 3}
search: {method: grid}
asha: {grace: 1}
confirm: {seeds: 1}
resources: {parallel: 1}
knobs:
  lr: {min: 0.1, max: 0.3, step: 0.1}
  kind: {choice: [plain]}
  momentum: 0.9
"""


def make_run(runs: Path) -> Record:
    """Make a run of one space without a trial."""
    space = SearchSpace.from_text(SPACE, "lab", "lab")
    settings = {
        **{"search_alg": "grid", "scheduler": "asha 1 x 3", "mode": "max", "trials": 3},
        "searched": ["kind", "lr"],
    }
    study = {"name": "lab", "variant": "quick", "base": "none", "sha256": space.sha256}
    return Record.create(
        runs, "mine", [{**study, "space": space.text, "settings": json.dumps(settings)}]
    )


def add(record: Record, number: int, values: list[float], state: State | None) -> None:
    space = SearchSpace.from_text(SPACE, "lab", "lab")
    config = TrialConfig(
        **{"trainable": "lab:quick", "variant": "quick", "base": "none", "task": {}},
        knobs={"lr": round(0.1 * (number % 3 + 1), 1), "kind": "plain", "momentum": 0.9},
        budget=space.trial_budget,
        seeds=Seeds(1, 1, 1),
    )
    trial = record.add_trial(0, "search", number, "grid", config)
    attempt, _ = record.start_attempt(trial)
    for epoch, value in enumerate(values, 1):
        report = {"epoch": epoch, "used": float(epoch), "metrics": {"val_acc": value}}
        report |= {"checkpoint": None, "checkpoint_sha256": None, "facts": {}}
        seq = record.add_report(trial.trial, attempt, report, "val_acc")
        record.add_decision(seq, Verdict("continue"))
    if state is not None:
        record.end_trial(trial.trial, state)
