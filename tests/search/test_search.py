"""Proposals: what an Optuna study is asked, in which order, and what it is told."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import TrialState

from samtune.search.proposals import Proposal, Proposals
from samtune.space.search_space import SearchSpace


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


def test_what_optuna_learns() -> None:
    proposals = Proposals(SearchSpace.load("sam"))
    ends = {
        "completed": {1: 0.5, 2: 0.9},
        "pruned": {1: 0.4},
        "diverged": {1: 0.8},
        "error": {},
    }
    for state, values in ends.items():
        proposal = proposals.ask()
        assert proposal is not None
        proposals.tell(proposal.number, state, values)
    assert proposals.learning is not None
    completed, pruned, diverged, error = proposals.learning.study.trials
    assert completed.state == TrialState.COMPLETE and completed.value == 0.9
    assert completed.intermediate_values == {1: 0.5, 2: 0.9}
    assert pruned.state == TrialState.PRUNED and pruned.intermediate_values == {1: 0.4}
    assert diverged.state == TrialState.PRUNED and diverged.intermediate_values == {}
    assert error.state == TrialState.FAIL


def test_a_diverged_trial_counts_as_worse_than_any_other() -> None:
    proposals = Proposals(SearchSpace.load("sam"))
    for state, values in [
        ("diverged", {1: 0.99}),
        ("pruned", {1: 0.01}),
        ("completed", {1: 0.0}),
    ]:
        proposal = proposals.ask()
        assert proposal is not None
        proposals.tell(proposal.number, state, values)
    # TPE's own order: the best n trials against the rest, for each n.
    assert proposals.learning is not None
    study = proposals.learning.study
    for count in (1, 2):
        _, rest = _split_trials(study, study.get_trials(), count)
        assert 0 in {t.number for t in rest}


def end(number: int, knobs: Mapping[str, object]) -> tuple[str, dict[int, float]]:
    """Return how a trial ends: one in ten diverges, one fails, four are pruned."""
    value = 1 / (1 + abs(math.log(float(knobs["rho"]) / 0.1)))
    states = ["completed", "pruned", "pruned", "completed", "diverged"] * 2
    states[7] = "error"
    state = states[number % 10]
    length = {"completed": 9, "pruned": 1 + number % 4}.get(state, 0)
    return state, {epoch: value * (1 - 0.5**epoch) for epoch in range(1, length + 1)}


def rows(proposals: Proposals) -> list[tuple[object, ...]]:
    assert proposals.learning is not None
    return [
        (t.state, t.params, t.distributions, t.values, t.intermediate_values)
        for t in proposals.learning.study.get_trials(deepcopy=False)
    ]


@pytest.mark.parametrize("conditional", [False, True])
def test_a_study_is_brought_back_at_every_cut(tmp_path: Path, conditional: bool) -> None:
    loaded = space(tmp_path, "budget: {trials: 100}\n" + (CONDITIONAL if conditional else GRIDS))
    live = Proposals(loaded)
    happened: list[tuple[Callable[..., object], tuple[object, ...]]] = []
    waiting: list[Proposal] = []
    expected = live.ask()
    live = Proposals(loaded)

    def told(number: int, state: str, values: dict[int, float]) -> None:
        happened.append((Proposals.tell, (number, state, values)))
        live.tell(number, state, values)

    def asked(proposal: Proposal) -> None:
        happened.append((Proposals.ask_again, (proposal.number, proposal.knobs)))

    for proposal in iter(live.ask, None):
        assert proposal == expected
        asked(proposal)
        number = proposal.number
        if number % 8 == 1:
            # It pauses, and goes on some while later.
            told(number, "paused", {1: 0.3, 2: 0.4 + number / 1000})
            waiting.append(proposal)
        elif number != 3:
            # Trial 3 runs all the while.
            told(number, *end(number, proposal.knobs))
        if len(waiting) > 2:
            again = waiting.pop(0)
            live.ask_again(again.number, again.knobs)
            asked(again)
            told(again.number, *end(again.number, again.knobs))
        rebuilt = Proposals(loaded)
        for call, arguments in happened:
            call(rebuilt, *arguments)
        assert rows(rebuilt) == rows(live)
        expected = rebuilt.ask()
    told(3, *end(3, {"rho": 0.1}))
    for proposal in waiting:
        live.tell(proposal.number, "pruned", {})
    assert waiting and {row[0] for row in rows(live)} == set(TrialState) - {
        TrialState.RUNNING,
        TrialState.WAITING,
    }


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
        assert rows(live) == rows(rebuilt)
    assert live.asked == rebuilt.asked
    assert all_of(live) == all_of(rebuilt)


def test_knobs_of_another_space_are_refused() -> None:
    proposals = Proposals(SearchSpace.load("sam"))
    knobs = {**SearchSpace.load("sam").default(), "momentum": 0.123}
    with pytest.raises(ValueError, match="trial 0 of sam does not fit its space"):
        proposals.ask_again(0, knobs)
