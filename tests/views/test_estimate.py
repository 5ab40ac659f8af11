"""The time that a dry run foretells, by the record of an earlier run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_sweeps import record_of
from run_two import message
from typed import typed

from analysis.statistics import until_decided
from samtune.cluster.size import TrialSize
from samtune.messages import SEE
from samtune.record.rows import State
from samtune.space.search_space import SearchSpace
from samtune.sweep.search_stage import SearchStage
from samtune.views.plan import TYPICAL_SEEDS


@pytest.fixture(autouse=True)
def three_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that runs three trials at a time, wherever the tests run."""
    monkeypatch.setattr(TrialSize, "own_slots", lambda self: self.parallel or 3)


def ran(runs: Path, reference: str, *changes: str, seconds: list[float | None]) -> str:
    """Record a run with a trial of 10 see per number of seconds, and return its name."""
    space = SearchSpace.load(reference, changes)
    name = f"run-{len(list(runs.glob('*')))}"
    with record_of(runs, [space], name) as record:
        stage = SearchStage(record, [space])
        for took in seconds:
            trial = stage.next()
            assert trial is not None
            attempt, _ = record.start_attempt(trial)
            for epoch in range(1, 6):
                record.add_report(trial.trial, attempt, message(epoch, 0.5), "val_acc")
            ended: State = "error" if took is None else "completed"
            record.end_trial(trial.trial, ended, None, took)
    return name


def planned(capsys: pytest.CaptureFixture[str], runs: Path, *words: str) -> list[dict[str, Any]]:
    code, out, err = typed(capsys, "run", *words, "--dry-run", "--json", "--runs", str(runs))
    assert code == 0, err
    spaces: list[dict[str, Any]] = json.loads(out)["spaces"]
    return spaces


def test_an_estimate_comes_from_the_pace_slots_rungs_and_repeats(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A trial that failed after an unknown time is not measured.
    name = ran(runs, "sam", seconds=[30.0, None, 50.0])
    (plan,) = planned(capsys, runs, "sam")
    found = plan["estimate"]
    assert (found["run"], found["trials"], found["slots"]) == (name, 2, 3)
    assert found["seconds_per_unit"] == pytest.approx(80 / 20)
    # The search, and then 3 x 2 select runs on three slots.
    assert found["search_s"] == pytest.approx(plan["budget_expected"] * 4 / 3 + 2 * 20 * 4)
    repeats = plan["confirm"]["top"] * plan["confirm"]["seeds"]
    assert found["confirm_s"] == pytest.approx(math.ceil(repeats / 3) * 20 * 4)
    assert found["seconds"] == pytest.approx(found["search_s"] + found["confirm_s"])


def test_an_estimate_follows_what_the_command_is_asked_for(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(runs, "sam", seconds=[40.0])
    (plan,) = planned(capsys, runs, "sam", "--no-confirm", "--set", "resources.parallel=1")
    assert plan["estimate"]["confirm_s"] == 0 and plan["confirm"]["budget"] == 0
    assert plan["estimate"]["seconds"] == pytest.approx((plan["budget_expected"] + 120) * 4)
    (plan,) = planned(capsys, runs, "sam", "--top", "2", "--seeds", "3")
    assert plan["confirm"] == {
        **{"top": 2, "seeds": 3, "looks": [3]},
        **{"budget": 120, "budget_expected": 120},
    }
    assert plan["estimate"]["confirm_s"] == pytest.approx(2 * 20 * 4)
    (plan,) = planned(capsys, runs, "sam", "--max-seeds", "10")
    assert plan["confirm"] == {
        **{"top": 1, "seeds": 10, "looks": [5, 10]},
        **{"budget": 200, "budget_expected": 200},
    }
    # One trial is never faster than its own budget.
    (plan,) = planned(capsys, runs, "sam", "--no-confirm", "--set", "budget.trials=1")
    assert plan["estimate"]["seconds"] == pytest.approx(20 * 4)


def test_more_than_three_spaces_are_planned_until_decided(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("sgd", "sam", "asam", "--dry-run", "--runs", str(runs))
    _, few, _ = typed(capsys, "run", *words)
    assert few.count("  confirm         1 x 5 repeats, 100 see\n") == 3
    _, many, _ = typed(capsys, "run", "gsam", *words)
    line = "1 x 5, 10, 15 or 20 repeats, until decided, about 250 see expected, 400 at most\n"
    assert many.count(f"  confirm         {line}") == 4


def test_the_expected_seeds_are_those_of_a_lead_of_one_and_a_half_deviations() -> None:
    rng = np.random.default_rng(1)
    seeds = []
    for _ in range(300):
        base, lead = rng.normal(size=(2, 20)) / 100
        scores = {"sgd": list(0.9 + base), "sam": list(0.915 + lead)}
        seeds.append(until_decided(scores, "sgd", None, 0.002)["sam"][1])
    assert np.mean(seeds) == pytest.approx(TYPICAL_SEEDS, abs=0.8)


@pytest.mark.parametrize(
    "words",
    [
        ["asam"],
        ["sam", "--set", "base=torch.optim.SGD"],
        ["sam", "--set", "task.batch_size=32"],
        ["sam", "--set", "resources.cpus=2"],
        ["sam", "--set", "budget.kind=epochs"],
        ["sam", "--address", "10.0.0.1:6379"],
    ],
    ids=lambda words: words[-1],
)
def test_no_earlier_run_fits(
    runs: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ran(runs, "sam", seconds=[30.0])
    (plan,) = planned(capsys, runs, *words)
    assert plan["estimate"] is None


def test_a_run_that_ended_nothing_or_cannot_be_read_gives_no_estimate(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(capsys, runs, "sam")[0]["estimate"] is None
    ran(runs, "sam", seconds=[None])
    (runs / "broken").mkdir()
    (runs / "broken" / "sweep.db").write_bytes(b"no record")
    assert planned(capsys, runs, "sam")[0]["estimate"] is None


def test_the_newest_run_that_fits_is_used_whatever_its_split_seed_and_knobs(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(runs, "sam", seconds=[30.0])
    newest = ran(runs, "sam", "task.split_seed=7", "rho=0.2", seconds=[20.0])
    ran(runs, "sgd", seconds=[10.0])
    (plan,) = planned(capsys, runs, "sam")
    assert plan["estimate"]["run"] == newest
    assert plan["estimate"]["seconds_per_unit"] == pytest.approx(2.0)


def test_a_dry_run_says_the_time_its_source_and_once_what_see_is(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sam, sgd = ran(runs, "sam", seconds=[15.0]), ran(runs, "sgd", seconds=[15.0])
    words = ("--dry-run", "--runs", str(runs), "--set", "resources.parallel=2")
    code, out, _ = typed(capsys, "run", "sam", "sgd", *words)
    # 312 see at 1.5 s each on two slots, 6 select runs and 5 repeats of 20 see in three rounds.
    assert (
        code == 0 and out.count("  time            about 6:54: search 5:24, confirm 1:30, ") == 2
    )
    assert "with 2 trials at a time" in out and "all spaces: about 13:48, an estimate" in out
    for name in (sam, sgd):
        assert f"an estimate from run {name}, whose 1 trials took 1.5 s per see" in out
    assert out.count(SEE) == 1
    _, out, _ = typed(capsys, "run", "asam", *words)
    assert "  time  " not in out and "all spaces" not in out and out.count(SEE) == 1


def test_see_is_explained_once_by_status_and_board(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [ran(runs, name, seconds=[15.0]) for name in ("sam", "sgd")]
    for words in (["status"], ["leaderboard", *names]):
        code, out, _ = typed(capsys, *words, "--runs", str(runs))
        assert code == 0 and out.count(SEE) == 1
