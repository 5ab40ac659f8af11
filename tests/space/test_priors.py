"""A prior draws the points that a search places near the value that a user expects."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median

import pytest

from samtune.search.proposals import Proposals
from samtune.space.search_space import Range, SearchSpace, SpaceError
from samtune.views.plan import plan, plan_text

pytestmark = pytest.mark.usefixtures("in_folder")


def load(words: str, *overrides: str) -> SearchSpace:
    text = f"samtune: 1\nextends: common\ntrainable: sam\nknobs: {{rho: {{{words}}}}}\n"
    Path("case.yaml").write_text(text)
    return SearchSpace.load("case.yaml", overrides)


def tried(words: str, method: str) -> list[float]:
    loaded = load(words, f"search.method={method}", "budget.trials=64", "search.sobol=64")
    found = [float(p.knobs["rho"]) for p in iter(Proposals(loaded).ask, None)]
    assert all(0.01 <= rho <= 0.5 for rho in found)
    return found


@pytest.mark.parametrize("method", ["sobol", "random", "tpe"])
def test_placed_points_lie_near_a_prior_the_nearer_the_surer(method: str) -> None:
    spreads = []
    for confidence in ("low", "medium", "high"):
        words = f"min: 0.01, max: 0.5, scale: log, prior: 0.2, confidence: {confidence}"
        distances = [abs(math.log(rho / 0.2)) for rho in tried(words, method)]
        assert distances[0] == 0, "the prior is tried first"
        spreads.append(median(distances))
    plain = [abs(math.log(rho / 0.2)) for rho in tried("min: 0.01, max: 0.5, scale: log", method)]
    assert spreads[2] < spreads[1] < spreads[0] < median(plain)


def test_a_prior_is_in_the_frozen_space_and_in_the_plan() -> None:
    space = load("min: 0.01, max: 0.5, prior: 0.05")
    rho = space.knobs["rho"]
    assert isinstance(rho, Range)
    assert (rho.prior, rho.confidence, rho.default) == (0.05, "medium", 0.05)
    assert SearchSpace.from_text(space.text, "case", "space.yaml").knobs == space.knobs
    assert "near 0.05 (medium), 0.01 .. 0.5" in plan_text(plan(space))
    own = load("min: 0.01, max: 0.5, prior: 0.05, default: 0.1").knobs["rho"]
    assert isinstance(own, Range) and (own.prior, own.default) == (0.05, 0.1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("min: 0.01, max: 0.5, prior: 0.6", "rho: prior 0.6 is not in 0.01 to 0.5"),
        ("min: 0.01, max: 0.5, confidence: low", "rho: it is about a prior; write `prior: ...`"),
        ("mean: 0.1, sd: 0.01, prior: 0.1", "rho: a normal distribution has its mean; remove"),
        ("min: 0.01, max: 0.5, prior: 0.1, confidence: hihg", "did you mean 'high'?"),
    ],
)
def test_a_prior_that_cannot_be_is_refused(words: str, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        load(words)
    assert message in str(caught.value)
