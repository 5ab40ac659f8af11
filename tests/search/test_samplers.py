"""The samplers of a search: each learns, and goes on after a cut as if there had been none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from samtune.search.proposals import Proposals
from samtune.search.samplers import Samplers
from samtune.space import sampler
from samtune.space.search_space import Choice, Range, SearchSpace, SpaceError

LEARNING = ["tpe", "gp", "cmaes", "nsga2", "auto", "own_samplers:nsga"]
SEVERAL = [method for method in LEARNING if method not in {"cmaes", "auto"}]
AIMS = [
    "search.metrics={val_acc: max, see: min}",
    "search.constraints={s_per_step: 0.02}",
    "budget.kind=epochs",
]
OWN = """
from optuna.samplers import NSGAIISampler

def nsga(seed):
    return NSGAIISampler(seed=seed, population_size=4)

def random_walk():
    pass
"""
NUMBERS = """
knobs:
  lr: {min: 1e-3, max: 0.5, scale: log}
  rho: {min: 0.01, max: 0.5, scale: log}
  m: {min: 0, max: 32, type: int}
"""
CHOICES = """
knobs:
  lr: {min: 1e-3, max: 0.5, scale: log}
  rho: {grid: [0.05, 0.1]}
  momentum: {choice: [0.0, 0.9]}
  nesterov: {when: {momentum: 0.9}, choice: [true, false]}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_samplers.py").write_text(OWN)


def space(body: str, *overrides: str) -> SearchSpace:
    Path("case.yaml").write_text(f"samtune: 1\nextends: common\ntrainable: sam\n{body}")
    return SearchSpace.load("case.yaml", ["search.sobol=4", *overrides])


def end(number: int, knobs: dict[str, object]) -> tuple[str, dict[int, float]]:
    """Return how a trial ends: a third is pruned, one in ten diverges, one in ten fails."""
    value = 1 / (1 + abs(math.log(float(str(knobs["lr"])) / 0.03)))
    state = ["completed", "pruned", "completed", "diverged", "pruned", "error"][number % 6]
    return state, {1: value / 2, 2: value} if state in {"completed", "pruned"} else {}


def costs(knobs: dict[str, object]) -> dict[str, float]:
    """Return further metrics of a trial: it misses the constraint at high learning rates."""
    lr, rho = float(str(knobs["lr"])), float(str(knobs["rho"]))
    return {"val_acc": 0.5 + rho, "see": 20 - rho, "train_s": lr, "step": 10.0}


@pytest.mark.parametrize(
    ("method", "body", "aims"),
    [
        *((method, body, []) for method in LEARNING for body in (NUMBERS, CHOICES)),
        *((method, CHOICES if method == "tpe" else NUMBERS, AIMS) for method in SEVERAL),
    ],
)
def test_a_search_that_was_cut_goes_on_as_if_it_had_not_been(
    method: str, body: str, aims: list[str]
) -> None:
    """Two trials run at a time. One pauses and is asked for again, and one has not ended."""
    slow = method in {"gp", "auto"}
    trials, late = (12, 10) if slow and aims else (14, 12) if slow else (20, 18)
    loaded = space(body, f"search.method={method}", f"budget.trials={trials}", *aims)
    live = Proposals(loaded)
    happened: list[Callable[[Proposals], object]] = []
    asked, cuts = [], {5: None, late: None}

    def both(call: Callable[[Proposals], object]) -> None:
        happened.append(call)
        call(live)

    for number in range(trials):
        if number in cuts:
            rebuilt = Proposals(loaded)
            for call in happened:
                call(rebuilt)
            ahead = [proposal.knobs for proposal in iter(rebuilt.ask, None)]
            assert rebuilt.asked == live.total
            cuts[number] = ahead[0]
        proposal = live.ask()
        assert proposal is not None
        assert cuts.get(number) in (None, proposal.knobs)
        knobs = json.loads(json.dumps(proposal.knobs))
        asked.append(knobs)
        happened.append(lambda p, n=number, k=knobs: p.ask_again(n, k))
        if number == 7:
            both(lambda p: p.tell(7, "paused", {1: 0.2}, costs(asked[7])))
        if number == 10:
            both(lambda p: p.ask_again(7, asked[7]))
        if number and number - 1 not in (7, 3):
            both(lambda p, n=number - 1: p.tell(n, *end(n, asked[n]), costs(asked[n])))
    assert all(ahead is not None for ahead in cuts.values())
    assert len({json.dumps(knobs) for knobs in asked}) > len(asked) / 2


@pytest.mark.parametrize("method", ["gp", "cmaes"])
def test_a_sampler_learns_from_what_it_is_told(method: str) -> None:
    def found(sign: float) -> float:
        proposals = Proposals(space(NUMBERS, f"search.method={method}", "budget.trials=24"))
        values = []
        for proposal in iter(proposals.ask, None):
            rho = math.log(float(proposal.knobs["rho"]))
            proposals.tell(proposal.number, "completed", {1: sign * rho})
            values.append(rho)
        return sum(values[-8:]) / 8

    assert found(+1) > found(-1) + math.log(2)


def test_auto_is_gp_for_numbers_alone_and_while_that_is_cheap() -> None:
    number, word = Range(0.0, 1.0, "linear", None, "float", 0.5), Choice(("a", "b"), "a")
    only, mixed = Samplers("auto", 1, 4, [number]), Samplers("auto", 1, 4, [number, word])
    assert [only.method(n) for n in (0, 249, 250)] == ["gp", "gp", "tpe"]
    assert mixed.method(0) == "tpe"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("tep", "search.method: 'tep' is none of tpe, gp, cmaes, nsga2, auto, random, sobol, "
         "grid, nor a path such as my_module:my_sampler; did you mean 'tpe'?"),
        ("own_samplers:nsg", "search.method: module own_samplers has no sampler 'nsg'; did you "
         "mean 'nsga'?"),
        ("no_such:thing", "search.method: no module 'no_such'"),
    ],
)  # fmt: skip
def test_a_method_that_is_none_is_refused_with_what_to_type(method: str, message: str) -> None:
    with pytest.raises(SpaceError) as caught:
        space(NUMBERS, f"search.method={method}")
    assert message in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpaceError, match=r"pip install 'samtune\[cmaes\]'"):
        space(NUMBERS, "search.method=cmaes")
