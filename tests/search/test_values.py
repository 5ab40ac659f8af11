"""Values that a search proposes: told apart by type, exact to the last digit, each once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from samtune.search.proposals import Proposals
from samtune.space.search_space import SearchSpace

METHODS = ["tpe", "random", "sobol", "grid"]
PLAIN = "samtune: 1\ntrainable: labtrainables.mod:plain\n"

pytestmark = pytest.mark.usefixtures("toy_trainable", "in_folder")


def proposals(body: str, *overrides: str, best: object = None) -> list[dict[str, object]]:
    """Return the knobs that are proposed if trials with `best` among their values do well."""
    Path("case.yaml").write_text(PLAIN + body)
    made = Proposals(SearchSpace.load("case.yaml", overrides))
    knobs = []
    for proposal in iter(made.ask, None):
        good = any(type(v) is type(best) and v == best for v in proposal.knobs.values())
        made.tell(proposal.number, "completed", {1: float(good)})
        knobs.append(proposal.knobs)
    assert len(knobs) == made.total
    return knobs


def spelled(values: list[object]) -> Counter[str]:
    return Counter(map(json.dumps, values))


@pytest.mark.parametrize("kind", ["choice", "grid"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", ["true, 1", "0, false", "1, 1.0", '"1", 1', "1, true, 1.0"])
def test_listed_values_are_told_apart_by_type(values: str, method: str, kind: str) -> None:
    body = f"budget: {{trials: 30}}\nknobs: {{x: {{{kind}: [{values}]}}}}\n"
    listed = json.loads(f"[{values}]")
    found = spelled([knobs["x"] for knobs in proposals(body, f"search.method={method}")])
    assert found.keys() == spelled(listed).keys()
    if kind == "grid" or method == "grid":
        assert set(found.values()) == {1}


@pytest.mark.parametrize("values", ["true, 1", "1, 1.0", '"1", 1'])
def test_a_record_brings_back_which_of_two_equal_numbers_it_was(values: str) -> None:
    Path("case.yaml").write_text(
        f"{PLAIN}budget: {{trials: 20}}\nknobs: {{x: {{choice: [{values}]}}}}\n"
    )
    space = SearchSpace.load("case.yaml")
    copy = SearchSpace.from_text(space.text, "case", "space.yaml")
    live, rebuilt = Proposals(space), Proposals(copy)
    for proposal in iter(live.ask, None):
        recorded = json.loads(json.dumps(proposal.knobs))
        rebuilt.ask_again(proposal.number, recorded)
        for proposals_ in (live, rebuilt):
            proposals_.tell(proposal.number, "completed", {1: float(proposal.number % 3)})
    assert live.learning and rebuilt.learning
    rows = [[trial.params for trial in made.learning.study.trials] for made in (live, rebuilt)]
    assert rows[0] == rows[1] and len({row["x"] for row in rows[0]}) == 2
    with pytest.raises(ValueError, match="does not fit its space"):
        rebuilt.ask_again(20, {"x": 2})


@pytest.mark.parametrize(
    ("values", "best"), [("true, 1", 1), ("1, true", 1), ("0, false", False), ("1, 1.0", 1.0)]
)
def test_tpe_learns_which_of_two_equal_numbers_is_good(values: str, best: object) -> None:
    body = f"budget: {{trials: 40}}\nknobs: {{x: {{choice: [{values}]}}}}\n"
    late = [knobs["x"] for knobs in proposals(body, best=best)[20:]]
    assert spelled(late)[json.dumps(best)] >= 14


@pytest.mark.parametrize("method", METHODS)
def test_a_condition_asks_for_one_of_two_equal_numbers(method: str) -> None:
    body = (
        "budget: {trials: 20}\n"
        "knobs:\n"
        "  x: {choice: [true, 1, 1.0]}\n"
        "  y: {choice: [5, 6], when: {x: 1}}\n"
    )
    for knobs in proposals(body, f"search.method={method}"):
        assert ("y" in knobs) == (type(knobs["x"]) is int)


@pytest.mark.parametrize("method", METHODS)
def test_points_and_first_points_are_told_apart_by_type(method: str) -> None:
    body = (
        "budget: {trials: 20}\n"
        "search: {first: [{x: 1, y: true}, {z: 1.0}]}\n"
        "points: [{x: true, y: 1}, {x: 1, y: true}]\n"
        "knobs: {z: {choice: [1, 1.0]}}\n"
    )
    made = proposals(body, f"search.method={method}")
    pairs = spelled([[knobs["x"], knobs["y"]] for knobs in made])
    assert pairs.keys() == {"[true, 1]", "[1, true]"}
    if method != "grid":
        assert (made[0]["x"], type(made[0]["x"])) == (1, int)
        assert type(made[1]["z"]) is float


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "words",
    [
        "min: 1000000000001, max: 1000000000005, step: 1, type: int",
        "min: 9007199254740993, max: 9007199254740997, type: int",
        "min: 9223372036854775801, max: 9223372036854775807, step: 3, type: int",
        "min: -9223372036854775807, max: -9223372036854775803, step: 2, type: int",
        "min: 9007199254740993, max: 9007199254740997, type: int, scale: log",
        "min: -9223372036854775807, max: 9223372036854775807, type: int",
        "min: 1, max: 9223372036854775807, type: int, scale: log",
        "min: 8, max: 512, step: 8, type: int, scale: log",
        "min: 0.1, max: 0.7, step: 0.2",
        "min: 0.001, max: 0.1, step: 0.0033, scale: log",
    ],
)
def test_every_value_is_on_a_step_and_exact(words: str, method: str) -> None:
    Path("case.yaml").write_text(f"{PLAIN}budget: {{trials: 25}}\nknobs: {{x: {{{words}}}}}\n")
    overrides = [f"search.method={method}"]
    if method == "grid":
        if " step:" not in f" {words}" or "512" in words:
            return
        overrides.append("search.first=[]")
    space = SearchSpace.load("case.yaml", overrides)
    made, rebuilt = Proposals(space), Proposals(space)
    domain = space.knobs["x"]
    for proposal in iter(made.ask, None):
        value = proposal.knobs["x"]
        assert domain.low <= value <= domain.high and type(value) is type(domain.low)
        if domain.step:
            steps = (value - domain.low) / domain.step
            assert abs(steps - round(steps)) < 1e-9
        if domain.type == "int":
            assert (value - domain.low) % (domain.step or 1) == 0
        made.tell(proposal.number, "completed", {1: float(value)})
        rebuilt.ask_again(proposal.number, json.loads(json.dumps(proposal.knobs)))
        rebuilt.tell(proposal.number, "completed", {1: float(value)})
    if made.learning and rebuilt.learning:
        rows = [[trial.params for trial in p.learning.study.trials] for p in (made, rebuilt)]
        assert rows[0] == rows[1]


GRIDS = "knobs:\n  sched: {grid: [flat, step]}\n  gamma: {grid: [1, 2, 3], when: {sched: step}}\n"


@pytest.mark.parametrize("method", METHODS)
def test_a_grid_with_a_condition_has_distinct_combinations(method: str) -> None:
    for trials, extra, count in [(2, "", 4), (2, "  lr: {min: 0.1, max: 1.0}\n", 8)]:
        if method == "grid" and extra:
            continue
        made = proposals(
            f"budget: {{trials: {trials}}}\n{GRIDS}{extra}", f"search.method={method}"
        )
        assert len(made) == len(spelled(made)) == count


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_a_grid_under_a_sampled_choice_has_distinct_combinations(method: str) -> None:
    body = GRIDS.replace("{grid: [flat", "{choice: [flat") + "  lr: {min: 0.1, max: 1.0}\n"
    made = proposals(f"budget: {{trials: 16}}\n{body}", f"search.method={method}")
    assert len(made) == len(spelled(made))
    flat = sum(knobs["sched"] == "flat" for knobs in made)
    assert 0 < flat < 16 and len(made) == flat + 3 * (16 - flat)


def test_tpe_begins_with_the_default_and_points_of_sobol() -> None:
    body = "budget: {trials: 12}\nknobs: {x: {min: 0.0, max: 1.0}, y: {min: 0.0, max: 1.0}}\n"
    begin = proposals(body)[:8]
    assert begin[0] == {"x": 0.5, "y": 0.5}
    # Each half of each axis has its share, as no random points would have by design.
    for axis in ("x", "y"):
        assert 3 <= sum(knobs[axis] < 0.5 for knobs in begin) <= 4
    assert begin == proposals(body, "budget.trials=30", best=0.5)[:8]
    assert begin[1:] != proposals(body, "search.sobol=0")[1:8]
    assert begin != proposals(body, "search.seed=2")[:8]


@pytest.mark.parametrize("method", ["tpe", "random", "sobol"])
def test_a_normal_distribution_draws_near_its_mean(method: str) -> None:
    body = (
        "budget: {trials: 64}\nknobs: {x: {mean: 1.0, sd: 0.1}, n: {mean: 8, sd: 2, type: int}}\n"
    )
    made = proposals(body, f"search.method={method}", "search.sobol=64")
    assert made[0] == {"x": 1.0, "n": 8}
    assert all(0.6 <= knobs["x"] <= 1.4 and type(knobs["n"]) is int for knobs in made)
    assert 30 <= sum(abs(knobs["x"] - 1) < 0.1 for knobs in made) <= 55
    assert 30 <= sum(abs(knobs["n"] - 8) <= 2 for knobs in made) <= 60
