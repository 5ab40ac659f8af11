"""The choice of a search's winner: its best trials again on fresh seeds, by validation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from analysis.leaderboard import leaderboard
from samtune.record import ranking, tables
from samtune.record.export import export
from samtune.record.record import Record
from samtune.record.rows import TrialRow, Verdict
from samtune.space.search_space import SearchSpace
from samtune.sweep.confirm_stage import ConfirmStage
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.select_stage import SelectStage
from samtune.views.plan import plan, plan_text
from samtune.views.status import status_of, status_text
from samtune.views.trials import study_called

SPACE = """
samtune: 1
trainable: sam
knobs: {lr: {min: 1e-3, max: 0.5, scale: log, default: 0.05}, rho: 0.1}
budget: {kind: epochs, per_trial: 2, trials: 20}
asha: {grace: 2}
search: {method: random, seed: 7}
"""


@pytest.fixture
def space(tmp_path: Path, request: pytest.FixtureRequest) -> SearchSpace:
    (tmp_path / "space.yaml").write_text(SPACE)
    return SearchSpace.load(tmp_path / "space.yaml", getattr(request, "param", ()))


@pytest.fixture
def record(runs: Path, space: SearchSpace) -> Record:
    settings = {
        **{"mode": "max", "trials": space.budget.trials, "searched": ["lr"]},
        **{"scheduler": "asha", "search_alg": "random", "row": space.row, "search": 0},
        "with_search": space.select.with_search,
    }
    row = {"name": space.name, "variant": "sam", "base": "sgd", "space": space.text}
    return Record.create(
        runs, "run", [row | {"sha256": space.sha256, "settings": json.dumps(settings)}]
    )


def run(record: Record, stage: Any, values: Sequence[float] | Mapping[int, float]) -> None:
    """Run the trials of a stage in their order, each with its value as its only report."""
    count = 0
    while (trial := stage.next()) is not None:
        end(record, stage, trial, values[count])
        count += 1
    stage.finish()


def end(record: Record, stage: Any, trial: TrialRow, value: float) -> None:
    attempt, _ = record.start_attempt(trial)
    report = {"epoch": 2, "used": 2.0, "metrics": {"val_acc": value}, "facts": {"n_val": 50}}
    report |= {"checkpoint": None, "checkpoint_sha256": None}
    seq = record.add_report(trial.trial, attempt, report, "val_acc")
    verdict = stage.judge(trial, 2.0, 50, value)
    record.add_decision(seq, verdict)
    state = "diverged" if verdict == Verdict("stop") else "completed"
    record.end_trial(trial.trial, state)
    stage.ended(trial, state, {2: value})


def searched(record: Record, space: SearchSpace) -> None:
    """Run the search; its best are trials 5 (0.95), 9 (0.94) and 2 (0.93)."""
    values = [0.5 + k / 1000 for k in range(space.budget.trials)]
    for number, value in {5: 0.95, 9: 0.94, 2: 0.93}.items():
        values[number] = value
    run(record, SearchStage(record, [space]), values)


def winners(record: Record) -> list[tuple[int, float]]:
    (study,) = record.studies()
    return [
        (trial.number, round(value, 6)) for trial, value in ranking.winners(record, study, most=3)
    ]


def test_the_best_mean_on_fresh_seeds_wins(record: Record, space: SearchSpace) -> None:
    searched(record, space)
    assert winners(record) == [(5, 0.95), (9, 0.94), (2, 0.93)]
    run(record, SelectStage(record, [space]), [0.80, 0.82, 0.90, 0.92, 0.91, 0.91])
    # Equal means: the earlier trial.
    assert winners(record) == [(2, 0.91), (9, 0.91), (5, 0.81)]
    runs = list(record.trials(stage="select"))
    assert [trial.bundle for trial in runs] == [7000, 7001] * 3
    assert [trial.config.seeds.split for trial in runs] == [2_007_000, 2_007_001] * 3
    assert not record.openings(), "no select run may open test"
    confirm = ConfirmStage(record, [space], None, [2])
    first = confirm.next()
    assert first is not None
    by_trial = {trial.trial: trial.number for trial in record.trials(stage="search")}
    assert by_trial[first.source or 0] == 2
    assert first.config.seeds.split == 1_000_000


@pytest.mark.parametrize(
    "space",
    [["budget.trials=16", "select.seeds=1", "select.with_search=true"]],
    indirect=True,
    ids=["thrifty"],
)
def test_the_value_of_a_short_search_counts_as_that_of_a_seed(
    record: Record, space: SearchSpace
) -> None:
    assert "the best 3 x 1 seed, 6 epochs; the value of the search" in plan_text(plan(space))
    searched(record, space)
    assert status_of(record)["studies"][0]["selects"] == {}
    run(record, SelectStage(record, [space]), [0.80, 0.82, 0.82])
    # Means with the search: 0.875 for trial 5, 0.88 for 9 and 0.875 for 2.
    assert winners(record) == [(9, 0.88), (2, 0.875), (5, 0.875)]
    export(record)
    (row,) = leaderboard([record.folder]).to_dict("records")
    assert row["select_mean"] == pytest.approx(0.88) and row["best_val_acc"] == 0.94
    selects = tables.read(record.folder / "selects.parquet", "selects")
    assert selects["with_search"].to_pylist() == [True] * 3


def test_a_diverged_select_run_loses(record: Record, space: SearchSpace) -> None:
    searched(record, space)
    run(record, SelectStage(record, [space]), [0.80, 0.82, 0.99, float("nan"), 0.7, 0.7])
    assert winners(record) == [(5, 0.81), (2, 0.7), (9, 0.94)]


def test_what_was_interrupted_runs_again_and_nothing_else(
    record: Record, space: SearchSpace
) -> None:
    searched(record, space)
    stage = SelectStage(record, [space])
    for value in (0.80, 0.82):
        trial = stage.next()
        assert trial is not None
        end(record, stage, trial, value)
    cut = stage.next()
    assert cut is not None
    record.start_attempt(cut)
    again = SelectStage(record, [space])
    assert again.progress.total == 4
    run(record, again, [0.90, 0.92, 0.7, 0.7])
    assert len(list(record.trials(stage="select"))) == 6
    assert winners(record)[0] == (9, 0.91)
    assert SelectStage(record, [space]).next() is None


@pytest.mark.parametrize(
    "space", [["select.top=1"], ["budget.trials=19"]], indirect=True, ids=["top", "short"]
)
def test_it_is_left_out_where_it_is_off_or_the_search_is_short(
    record: Record, space: SearchSpace
) -> None:
    searched(record, space)
    assert SelectStage(record, [space]).next() is None
    assert plan(space)["select"] is None and "select  " not in plan_text(plan(space))


def test_the_plan_the_status_and_the_tables_have_it(record: Record, space: SearchSpace) -> None:
    assert "the best 3 x 2 seeds, 12 epochs" in plan_text(plan(space))
    searched(record, space)
    run(record, SelectStage(record, [space]), [0.80, 0.82, 0.90, 0.92, 0.91, 0.91])
    assert "the best again, to select: completed 6" in status_text(status_of(record))
    export(record)
    selects = tables.read(record.folder / "selects.parquet", "selects").to_pandas()
    assert selects["rank_in_search"].tolist() == [0, 0, 1, 1, 2, 2]
    assert selects["val_acc"].tolist() == [0.80, 0.82, 0.90, 0.92, 0.91, 0.91]
    assert not [name for name in selects.columns if name.startswith("test_")]
    repeats = tables.read(record.folder / "repeats.parquet", "repeats").to_pandas()
    assert repeats.empty
    trials = tables.read(record.folder / "trials.parquet", "trials").to_pandas()
    assert len(trials) == 20 and set(trials["search"]) == {0} and set(trials["space"]) == {"space"}


def test_a_run_begun_without_the_stage_stays_without(space: SearchSpace) -> None:
    text = "".join(line for line in space.text.splitlines(keepends=True))
    before, _, after = text.partition("select:")
    old = before + after.partition("resources:")[1] + after.partition("resources:")[2]
    assert "select" not in old
    assert SearchSpace.from_text(old, "space", "old").select.top == 1
    assert SearchSpace.from_text(text, "space", "new").select.top == 3


def test_a_trial_of_the_stage_is_named(record: Record, space: SearchSpace) -> None:
    from samtune.views.trials import _found

    searched(record, space)
    run(record, SelectStage(record, [space]), [0.80, 0.82, 0.90, 0.92, 0.91, 0.91])
    study, trial = _found(record, "s3")
    assert (trial.stage, trial.number, study) == ("select", 3, study_called(record, "space"))
