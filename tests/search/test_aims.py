"""Several aims and constraints: what Optuna is told, and what it proposes then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from test_record import CONFIG, STUDY

from samtune.record.record import Record
from samtune.search.journal import write_journal
from samtune.search.proposals import Proposals
from samtune.space.search_space import SearchSpace

SEVERAL = "search.metrics={val_acc: max, see: min}"
LIMITS = "search.constraints={s_per_step: 0.2, val_acc: {min: 0.5}}"
EPOCHS = "budget.kind=epochs"


def report(acc: float, see: float, s_per_step: float = 0.1) -> dict[str, float]:
    return {"val_acc": acc, "see": see, "train_s": 50 * s_per_step, "step": 50.0}


def told(ends: Mapping[str, tuple[str, dict[str, float]]], *words: str) -> list[FrozenTrial]:
    """Return the trials of a study that was told these ends, each a state and its last report."""
    proposals = Proposals(SearchSpace.load("sam", [*words, EPOCHS]))
    for state, last in ends.values():
        proposal = proposals.ask()
        assert proposal is not None
        values = {1: 0.1, 2: last["val_acc"]} if math.isfinite(last["val_acc"]) else {1: 0.1}
        proposals.tell(proposal.number, state, values, last)
    assert proposals.learning is not None
    return proposals.learning.study.get_trials(deepcopy=False)


def test_optuna_is_told_the_values_of_full_trials_and_how_far_limits_are_missed() -> None:
    ends = {
        "full": ("completed", report(0.9, 20)),
        "stopped": ("pruned", report(0.4, 8, 0.5)),
        "paused": ("paused", report(0.6, 8)),
        "diverged": ("diverged", report(math.nan, 3)),
        "without a figure": ("completed", {**report(0.9, 20), "see": math.nan}),
        "failed": ("error", report(0.9, 20)),
    }
    trials = dict(zip(ends, told(ends, SEVERAL, LIMITS), strict=True))
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    states = [complete, pruned, pruned, pruned, pruned, TrialState.FAIL]
    assert [trial.state for trial in trials.values()] == states
    assert trials["full"].values == [0.9, 20]
    assert trials["full"].constraints == pytest.approx({"s_per_step": -0.1, "val_acc": -0.4})
    # A stopped trial has used less, which is no merit: it has no values.
    assert trials["stopped"].values is None
    assert trials["stopped"].constraints == pytest.approx({"s_per_step": 0.3, "val_acc": 0.1})
    assert trials["diverged"].constraints == {"s_per_step": math.inf, "val_acc": math.inf}
    assert trials["failed"].constraints == {}
    # With one metric stopped trials have their values as ever, and constraints beside them.
    trials = dict(zip(ends, told(ends, LIMITS), strict=True))
    assert trials["stopped"].intermediate_values == {1: 0.1, 2: 0.4}
    assert trials["stopped"].constraints == pytest.approx({"s_per_step": 0.3, "val_acc": 0.1})
    assert trials["without a figure"].values == [0.9]


@pytest.mark.parametrize("method", ["tpe", "nsga2"])
def test_a_search_learns_both_ends_and_keeps_its_limits(method: str) -> None:
    def late(*words: str) -> list[float]:
        """Return the last radii of a search whose cost and score both rise with rho."""
        proposals = Proposals(
            SearchSpace.load(
                "sam", [f"search.method={method}", "budget.trials=60", EPOCHS, *words]
            )
        )
        radii = []
        for proposal in iter(proposals.ask, None):
            rho = float(proposal.knobs["rho"])
            last = report(rho, rho, 0.1 if rho < 0.1 else 0.3)
            state = "pruned" if proposal.number % 3 == 1 else "completed"
            proposals.tell(proposal.number, state, {1: rho}, last)
            radii.append(rho)
        return radii[-20:]

    limit = "search.constraints={s_per_step: 0.2}"
    kept = [rho < 0.1 for rho in late(limit)]
    assert sum(kept) > 14 > sum(rho < 0.1 for rho in late())
    two = late(SEVERAL)
    # Each radius is on the front, so neither end is left.
    assert min(two) < 0.05 and max(two) > 0.2


def test_the_journal_has_all_metrics_their_names_and_the_constraints(
    runs: Path, tmp_path: Path
) -> None:
    space = SearchSpace.load("sam", [SEVERAL, LIMITS, EPOCHS])
    row = {**STUDY, "name": "sam", "space": space.text, "sha256": space.sha256}
    with Record.create(runs, "mine", [row]) as record:
        for number, state in enumerate(["completed", "pruned", "running"]):
            trial = record.add_trial(0, "search", number, "sampled", CONFIG)
            attempt, _ = record.start_attempt(trial)
            plain = {"epoch": 1, "used": 1.0, "metrics": report(0.9, 20), "facts": {}}
            plain |= {"checkpoint": None, "checkpoint_sha256": None}
            record.add_report(trial.trial, attempt, plain, "val_acc")
            if state != "running":
                record.end_trial(trial.trial, state, None)
        write_journal(record, tmp_path / "j")
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "j")))
    study = optuna.load_study(study_name="sam", storage=storage)
    assert study.metric_names == ["val_acc", "see"]
    assert study.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    full, stopped, _ = study.trials
    assert full.values == [0.9, 20] and stopped.values is None
    assert full.constraints == pytest.approx({"s_per_step": -0.1, "val_acc": -0.4})
    assert [trial.number for trial in study.best_trials] == [0]
