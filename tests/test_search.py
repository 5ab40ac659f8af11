"""Proposals: what an Optuna study is asked, in which order, and what it is told."""

from __future__ import annotations

import gc
import itertools
import json
import weakref
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.samplers._tpe.sampler import _split_trials
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from samtune.search import Proposals
from samtune.space import SearchSpace


def space(tmp_path: Path, body: str, *overrides: str) -> SearchSpace:
    file = tmp_path / "case.yaml"
    file.write_text(f"samtune: 1\nextends: common\ntrainable: sam\n{body}")
    return SearchSpace.load(file, overrides)


def all_of(proposals: Proposals) -> list[dict[str, object]]:
    return [dict(p.knobs) for p in iter(proposals.ask, None)]


@pytest.mark.parametrize("method", ["tpe", "random", "sobol"])
def test_the_default_comes_first_then_points_inside_the_ranges(method: str) -> None:
    loaded = SearchSpace.load("asam", [f"search.method={method}", "budget.trials=20"])
    proposals = Proposals(loaded)
    asked = list(iter(proposals.ask, None))
    assert len(asked) == proposals.total == 20
    assert asked[0].origin == "default" and asked[0].knobs == loaded.default()
    assert {p.origin for p in asked[1:]} == {"sampled"}
    for proposal in asked:
        assert 1e-3 <= proposal.knobs["lr"] <= 0.5
        assert 0.05 <= proposal.knobs["rho"] <= 5
        assert proposal.knobs["eta"] in (0, 0.01)
        assert proposal.knobs["momentum"] == 0.9
    assert len({p.knobs["lr"] for p in asked}) == 20


@pytest.mark.parametrize("method", ["tpe", "random", "sobol"])
def test_equal_seeds_propose_alike_and_others_do_not(method: str) -> None:
    def asked(seed: int) -> list[dict[str, object]]:
        proposals = Proposals(
            SearchSpace.load("sam", [f"search.method={method}", f"search.seed={seed}"])
        )
        knobs = []
        for proposal in itertools.islice(iter(proposals.ask, None), 15):
            proposals.tell(proposal.number, "completed", {1: float(proposal.knobs["rho"])})
            knobs.append(proposal.knobs)
        return knobs

    assert asked(1) == asked(1)
    assert asked(1)[1:] != asked(2)[1:]


def test_tpe_learns_from_what_it_is_told() -> None:
    def mean_rho(sign: float) -> float:
        proposals = Proposals(SearchSpace.load("sam", ["budget.trials=60"]))
        late = []
        for proposal in iter(proposals.ask, None):
            rho = float(proposal.knobs["rho"])
            proposals.tell(proposal.number, "completed", {1: sign * rho})
            late.append(rho)
        return sum(late[-20:]) / 20

    assert mean_rho(+1) > 3 * mean_rho(-1)


def test_a_grid_is_tried_once_each(tmp_path: Path) -> None:
    loaded = space(
        tmp_path,
        """
search: {method: grid}
knobs:
  lr: {grid: [0.1, 0.2, 0.3]}
  rho: {min: 0.1, max: 0.3, step: 0.1}
  momentum: {choice: [0, 0.9]}
""",
    )
    proposals = Proposals(loaded)
    asked = all_of(proposals)
    assert proposals.total == len(asked) == 18
    assert Counter(round(p["rho"], 9) for p in asked) == {0.1: 6, 0.2: 6, 0.3: 6}
    assert len({(p["lr"], round(p["rho"], 9), p["momentum"]) for p in asked}) == 18


def test_grid_knobs_multiply_sampled_points(tmp_path: Path) -> None:
    loaded = space(
        tmp_path,
        """
search: {method: random}
budget: {trials: 4}
knobs:
  lr: {min: 1e-3, max: 0.5, scale: log}
  rho: {grid: [0.05, 0.1]}
""",
    )
    asked = all_of(Proposals(loaded))
    assert len(asked) == 8
    by_rho = {r: [p["lr"] for p in asked if p["rho"] == r] for r in (0.05, 0.1)}
    assert by_rho[0.05] == by_rho[0.1]


def test_a_conditional_knob_is_proposed_only_where_its_condition_holds(tmp_path: Path) -> None:
    body = """
budget: {trials: 30}
knobs:
  momentum: {choice: [0.0, 0.9]}
  nesterov:
    when: {momentum: 0.9}
    choice: [true, false]
"""
    for method in ("tpe", "random", "sobol", "grid"):
        asked = all_of(Proposals(space(tmp_path, body, f"search.method={method}")))
        assert {p["momentum"] for p in asked} == {0.0, 0.9}
        for knobs in asked:
            assert ("nesterov" in knobs) == (knobs["momentum"] == 0.9)
        if method == "grid":
            assert len(asked) == 3


def test_tied_points_stay_together(tmp_path: Path) -> None:
    body = """
budget: {trials: 20}
points: [{lr: 0.1, rho: 0.05}, {lr: 0.01, rho: 0.5}]
"""
    for method in ("tpe", "random", "grid"):
        asked = all_of(Proposals(space(tmp_path, body, f"search.method={method}")))
        assert {(p["lr"], p["rho"]) for p in asked} == {(0.1, 0.05), (0.01, 0.5)}
        assert len(asked) == (2 if method == "grid" else 20)


def test_an_enqueued_point_is_tried_as_written(tmp_path: Path) -> None:
    body = """
search: {first: [default, {lr: 0.2, rho: 0.2}]}
knobs:
  lr: {min: 1e-3, max: 0.5, scale: log, default: 0.1}
  rho: {min: 0.01, max: 0.5, scale: log}
"""
    first, second = itertools.islice(iter(Proposals(space(tmp_path, body)).ask, None), 2)
    assert (first.origin, first.knobs["lr"]) == ("default", 0.1)
    assert (second.origin, second.knobs["lr"], second.knobs["rho"]) == ("enqueued", 0.2, 0.2)


def test_what_optuna_is_told() -> None:
    proposals = Proposals(SearchSpace.load("sam"))
    ends = {
        "completed": {1: 0.5, 2: 0.9},
        "pruned": {1: 0.4},
        "diverged": {1: 0.8},
        "error": {},
    }
    told = []
    for state, values in ends.items():
        proposal = proposals.ask()
        assert proposal is not None
        told.append(proposals.tell(proposal.number, state, values))
    completed, pruned, diverged, error = told
    assert completed.state == TrialState.COMPLETE and completed.value == 0.9
    assert completed.intermediate_values == {1: 0.5, 2: 0.9}
    assert pruned.state == TrialState.PRUNED and pruned.intermediate_values == {1: 0.4}
    assert diverged.state == TrialState.PRUNED and diverged.intermediate_values == {}
    assert diverged.user_attrs["state"] == "diverged"
    assert error.state == TrialState.FAIL


def test_ended_trials_are_mirrored_to_a_journal_that_optuna_opens(tmp_path: Path) -> None:
    journal = tmp_path / "optuna.journal"
    proposals = Proposals(SearchSpace.load("sam"), journal)
    for state in ("completed", "pruned", "error"):
        proposal = proposals.ask()
        assert proposal is not None
        proposals.tell(proposal.number, state, {1: 0.5, 2: 0.6})
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.load_study(study_name="sam", storage=storage)
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert [trial.state for trial in study.trials] == states
    assert study.best_value == 0.6 and study.best_params["rho"] == 0.05
    assert study.trials[1].intermediate_values == {1: 0.5, 2: 0.6}


def test_two_spaces_share_a_journal_and_keep_no_copy_of_it(tmp_path: Path) -> None:
    journal = tmp_path / "optuna.journal"
    both = [Proposals(SearchSpace.load(name), journal) for name in ("sam", "sgd")]
    for proposals in both * 3:
        proposal = proposals.ask()
        assert proposal is not None
        proposals.tell(proposal.number, "completed", {1: 0.1 * proposal.number})
    storage = JournalStorage(JournalFileBackend(str(journal)))
    for name in ("sam", "sgd"):
        study = optuna.load_study(study_name=name, storage=storage)
        assert [trial.value for trial in study.trials] == [0.0, 0.1, 0.2]


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_a_method_that_learns_nothing_keeps_nothing(method: str) -> None:
    proposals = Proposals(SearchSpace.load("sam", [f"search.method={method}"]))
    proposal = proposals.ask()
    assert proposal is not None
    told = weakref.ref(proposals.tell(proposal.number, "completed", {1: 0.5}))
    gc.collect()
    assert told() is None


def test_a_diverged_trial_counts_as_worse_than_any_other() -> None:
    proposals = Proposals(SearchSpace.load("sam"))
    trials = []
    for state, values in [
        ("diverged", {1: 0.99}),
        ("pruned", {1: 0.01}),
        ("completed", {1: 0.0}),
    ]:
        proposal = proposals.ask()
        assert proposal is not None
        trials.append(proposals.tell(proposal.number, state, values))
    # TPE's own order: the best n trials against the rest, for each n.
    assert proposals.study is not None
    for count in (1, 2):
        _, rest = _split_trials(proposals.study, trials, count)
        assert 0 in {t.number for t in rest}


CONDITIONAL = """
knobs:
  momentum: {choice: [0.0, 0.9]}
  nesterov:
    when: {momentum: 0.9}
    choice: [true, false]
"""
TIED = "points: [{lr: 0.1, rho: 0.05}, {lr: 0.01, rho: 0.5}]\n"
GRIDS = "knobs:\n  lr: {min: 1e-3, max: 0.5, scale: log}\n  rho: {grid: [0.05, 0.1]}\n"
STEPS = "knobs:\n  rho: {min: 0.1, max: 0.3, step: 0.1}\n  m: {min: 0, max: 32, type: int}\n"


@pytest.mark.parametrize("method", ["tpe", "random", "sobol", "grid"])
@pytest.mark.parametrize("body", [CONDITIONAL, TIED, GRIDS, STEPS])
def test_recorded_proposals_bring_a_study_back(tmp_path: Path, body: str, method: str) -> None:
    if method == "grid":
        body = body.replace("{min: 1e-3, max: 0.5, scale: log}", "0.1")
        body = body.replace("max: 32, type: int}", "max: 32, step: 16, type: int}")
    loaded = space(tmp_path, "budget: {trials: 12}\n" + body, f"search.method={method}")
    live, rebuilt = Proposals(loaded), Proposals(loaded)
    asked = []
    for proposal in itertools.islice(iter(live.ask, None), 7):
        # As the record keeps them.
        asked.append(json.loads(json.dumps(proposal.knobs)))
        if proposal.number != 4:
            live.tell(proposal.number, "completed", {1: 0.1 * proposal.number})
    for number, knobs in enumerate(asked):
        rebuilt.ask_again(number, knobs)
    for number in {0, 1, 2, 3, 5, 6} & set(range(len(asked))):
        rebuilt.tell(number, "completed", {1: 0.1 * number})
    if method == "tpe":
        rows = [
            [(t.state, t.params, t.distributions, t.values) for t in p.study.get_trials(False)]
            for p in (live, rebuilt)
        ]
        assert rows[0] == rows[1]
    assert live.asked == rebuilt.asked
    assert all_of(live) == all_of(rebuilt)


def test_knobs_of_another_space_are_refused() -> None:
    proposals = Proposals(SearchSpace.load("sam"))
    knobs = {**SearchSpace.load("sam").default(), "momentum": 0.123}
    with pytest.raises(ValueError, match="trial 0 of sam does not fit its space"):
        proposals.ask_again(0, knobs)
