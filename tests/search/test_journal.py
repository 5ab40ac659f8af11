"""The Optuna journal of a run: samtune's numbers and contents, as the export has them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from test_record import STUDY

from samtune.record.record import Record
from samtune.search.journal import Journal, write_journal
from samtune.space.search_space import Choice, SearchSpace
from samtune.trial import Budget, Seeds, TrialConfig


def content(path: Path, name: str) -> list[tuple[Any, ...]]:
    storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.load_study(study_name=name, storage=storage)
    return [
        (t.number, t.state, t.params, t.user_attrs, t.values, t.intermediate_values)
        for t in study.trials
    ]


def test_the_live_journal_holds_what_the_export_holds(runs: Path, tmp_path: Path) -> None:
    space = SearchSpace.load("sam", ["search.first=[]"])
    row = {**STUDY, "name": "sam", "space": space.text, "sha256": space.sha256}
    with Record.create(runs, "mine", [row]) as record, record.lock():
        live = Journal(record.folder / "optuna.journal", [space])
        trials = []
        for number, origin in enumerate(["default", "sampled", "enqueued", "sampled", "sampled"]):
            config = TrialConfig(
                trainable=space.trainable,
                variant="sam",
                base="sgd",
                knobs={**space.default(), "rho": 0.05 + number / 100},
                task={},
                budget=Budget("epochs", 3),
                seeds=Seeds(1, 1, 1),
            )
            trial = record.add_trial(0, "search", number, origin, config)
            live.add(trial, {}, {})
            trials.append(trial)
        curves: dict[int, dict[int, float]] = {trial.trial: {} for trial in trials}
        for trial in trials[:4]:
            attempt, _ = record.start_attempt(trial)
            for epoch in (1, 2):
                report = {
                    **{"epoch": epoch, "used": float(epoch), "metrics": {"val_acc": 0.5}},
                    **{"checkpoint": None, "checkpoint_sha256": None, "facts": {}},
                }
                record.add_report(trial.trial, attempt, report, "val_acc")
                curves[trial.trial][epoch] = 0.5
        # They end in another order than they began, with another one still running.
        for number, state, reason in [
            (2, "error", "out of memory"),
            (0, "completed", None),
            (3, "pruned", "rung 0"),
            (1, "cancelled", "stopped"),
        ]:
            trial = trials[number]
            record.end_trial(trial.trial, state, reason)
            live.end(record.trial(trial.trial), curves[trial.trial], {"val_acc": 0.5})
        write_journal(record, tmp_path / "export.journal")
        found = content(record.folder / "optuna.journal", "sam")
        assert found == content(tmp_path / "export.journal", "sam")
    numbers, states, params, attributes, values, curves_found = zip(*found, strict=True)
    assert numbers == (0, 1, 2, 3, 4)
    assert states == (
        *(TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL),
        *(TrialState.PRUNED, TrialState.RUNNING),
    )
    assert params[3]["rho"] == 0.05 + 3 / 100
    assert attributes[2] == {"state": "error", "origin": "enqueued", "reason": "out of memory"}
    assert values[0] == [0.5] and values[2] is None
    assert curves_found[2] == {1: 0.5, 2: 0.5}


def test_values_that_optuna_cannot_tell_apart_are_shown_as_text(tmp_path: Path) -> None:
    (tmp_path / "case.yaml").write_text(
        "samtune: 1\nextends: common\ntrainable: sam\nknobs: {nesterov: {choice: [true, false]}}\n"
    )
    space = SearchSpace.load(tmp_path / "case.yaml")
    mixed = Choice((True, 1, 1.0, "1"), True)
    journal = Journal(tmp_path / "j", [dataclasses.replace(space, knobs={"x": mixed})])
    assert journal._distributions[0]["x"].choices == ("true", "1", "1.0", '"1"')
