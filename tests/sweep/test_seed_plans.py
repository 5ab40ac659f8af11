"""Confirmation by a plan: its looks, its resume, the seeds added outside it, and its record."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lab_sweeps import record_of

from analysis.sharpness import MEASURES, SETTINGS
from analysis.verdicts import compare
from samtune.api.decisions import decisions
from samtune.api.frozen import study_row
from samtune.api.seed_plan import Asked, SeedPlan, asked_plan, settled
from samtune.api.sharpness import measure
from samtune.cluster.start import Cluster
from samtune.record import tables
from samtune.record.export import export
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.record.rows import State
from samtune.space.search_space import SearchSpace
from samtune.sweep.confirm_stage import ConfirmStage
from samtune.sweep.live import QuietView
from samtune.sweep.run_stages import run_stages
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.stages import StagePlan
from samtune.sweep.stop import Stop
from samtune.views.status import status_of, status_text

# By seed, of 1,000 test images: `good` is better than sgd, `same` is tied with it, `near` stays
# open, `lost` diverges once, and `late` is better after ten seeds.
LAB = """
import samtune

LEADS = {"sgd": [0], "good": [50, 54], "same": [1, -1], "near": [-20, 28], "lost": [5]}
LEADS["late"] = [10, 40]

def metrics(config):
    row, seed = config.knobs["row"], config.seeds.init % 1000
    if config.test_permit is None:
        return {"val_acc": 0.9 if row in {"sgd", "good"} else 0.8}
    if row == "lost" and seed == 2:
        return {"val_acc": float("nan")}
    correct = 800 + seed % 3 + LEADS[row][seed % len(LEADS[row])]
    return {"val_acc": 0.9, "test_acc": correct / 1000, "n_test": 1000}

def train(config):
    samtune.report(epoch=1, **metrics(config))
"""
SPACE = """
samtune: 1
trainable: {lab}:train
knobs: {{row: {row}}}
budget: {{kind: epochs, per_trial: 1, trials: 1}}
search: {{method: random}}
"""
LOOKS = Asked(until_decided=True, max_seeds=10)
Confirming = tuple[ConfirmStage, list[str]]


@pytest.fixture
def lab(lab_of: Callable[[str], str]) -> str:
    return lab_of(LAB)


def rows_of(lab: str, *rows: str) -> list[SearchSpace]:
    for row in rows:
        Path(f"{row}.yaml").write_text(SPACE.format(lab=lab, row=row))
    return [SearchSpace.load(f"{row}.yaml") for row in rows]


def recorded(runs: Path, spaces: list[SearchSpace], name: str = "run") -> Record:
    """Return a run after its search, which runs in this process."""
    record = record_of(runs, spaces, name)
    play(SearchStage(record, spaces), record)
    return record


def confirming(record: Record, spaces: list[SearchSpace], asked: Asked = LOOKS) -> Confirming:
    told: list[str] = []
    plan = settled(record, asked, spaces)
    decided = decisions(record, told.append)
    return ConfirmStage(record, spaces, None, plan.looks, plan.added, decided), told


def play(stage: StagePlan, record: Record, most: int = 1000) -> int:
    """Run so many trials of a stage one after another in this process. Return how many it had."""
    for count in range(most):
        trial = stage.next()
        if trial is None:
            return count
        attempt, permit = record.start_attempt(trial)
        lab = sys.modules[trial.config.trainable.partition(":")[0]]
        metrics = lab.metrics(replace(trial.config, test_permit=permit))
        report = {"epoch": 1, "used": 1.0, "metrics": metrics, "facts": {}}
        report |= {"checkpoint": None, "checkpoint_sha256": None}
        seq = record.add_report(trial.trial, attempt, report, "val_acc")
        verdict = stage.judge(trial, 1.0, None, metrics["val_acc"])
        record.add_decision(seq, verdict)
        state: State = "completed" if verdict.decision == "continue" else "diverged"
        record.end_trial(trial.trial, state)
        stage.ended(trial, state, {1: metrics["val_acc"]})
    return most


def repeats_of(record: Record) -> list[dict[str, Any]]:
    export(record)
    found: list[dict[str, Any]] = tables.read(
        record.folder / "repeats.parquet", "repeats"
    ).to_pylist()
    return found


def per_row(record: Record) -> Counter[str]:
    return Counter(row["space"] for row in repeats_of(record) if row["state"] == "completed")


def test_a_plan_until_decided_is_stopped_and_resumed(
    two_slots: Cluster, runs: Path, lab: str
) -> None:
    spaces = rows_of(lab, "good", "sgd", "near")
    one = replace(two_slots, slots=1)

    class StopAfterTheFirstLook(QuietView):
        def event(self, text: str) -> None:
            if text.startswith("[15/"):
                stop.request()

    with record_of(runs, spaces) as record:
        run_stages([SearchStage(record, spaces)], record, one, QuietView(), Stop())
        stop = Stop()
        stage, told = confirming(record, spaces)
        run_stages([stage], record, one, StopAfterTheFirstLook(), stop)
        assert sum(per_row(record).values()) == 15 and not told
        stage, told = confirming(record, spaces)
        assert stage.progress.total == 10
        run_stages([stage], record, two_slots, QuietView(), Stop())
        assert told == ["after 5 seeds: sgd, near go on"]
        assert per_row(record) == {"good": 5, "sgd": 10, "near": 10}
        assert {row["plan"] for row in repeats_of(record)} == {"looks 5 10"}
        openings, events = record.openings(), record.events()
        (plan,) = [event for event in events if event["kind"] == "plan"]
        assert plan["detail"] == "looks 5 10"
        assert plan["at"] < min(opening["granted_at"] for opening in openings)
        assert len(openings) == 25 and all(opening["used_at"] for opening in openings)


def test_a_kill_anywhere_changes_no_decision(runs: Path, lab: str) -> None:
    spaces = rows_of(lab, "sgd", "good", "same", "near")
    with recorded(runs, spaces) as record:
        count = Counter[str]()
        while True:
            stage, told = confirming(record, spaces)
            done = play(stage, record, 3)
            count.update(told)
            if done < 3:
                break
            # One more was begun when the process was killed.
            if (cut := stage.next()) is not None:
                record.start_attempt(cut)
        assert per_row(record) == {"sgd": 10, "good": 5, "same": 5, "near": 10}
        assert count == {"after 5 seeds: sgd, near go on": 1}
        assert len({(row["space"], row["seed_bundle"]) for row in repeats_of(record)}) == 30


def test_a_look_that_was_cut_short_decides_nothing(runs: Path, lab: str) -> None:
    spaces = rows_of(lab, "sgd", "late")
    with recorded(runs, spaces) as record:
        stage, told = confirming(record, spaces)
        play(stage, record, 19)
        last = stage.next()
        assert last is not None and told == ["after 5 seeds: sgd, late go on"]
        record.start_attempt(last)
        record.end_trial(last.trial, "cancelled")
        assert play(confirming(record, spaces)[0], record) == 1
        assert per_row(record) == {"sgd": 10, "late": 10}


def test_a_look_waits_for_all_repeats_before_it(runs: Path, lab: str) -> None:
    spaces = rows_of(lab, "sgd", "near")
    with recorded(runs, spaces) as record:
        stage, told = confirming(record, spaces)
        play(stage, record, 9)
        last = stage.next()
        assert last is not None and stage.next() is None and not told
        stage.again(last)
        assert stage.next() == last and stage.next() is None
        record.end_trial(last.trial, "error")
        stage.ended(last, "error", {})
        assert stage.next() is not None and told


def test_the_searches_of_a_row_go_on_together_and_status_knows_the_next_look(
    runs: Path, lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def member(base: SearchSpace, search: int) -> SearchSpace:
        name = f"{base.name}.{search}"
        words = [f"member.row={base.name}", f"member.search={search}", f"search.seed={search}"]
        return SearchSpace.from_text(base.text, name, name, words)

    def left() -> str:
        (begun,) = (e["at"] for e in record.events() if e["kind"] == "confirm started")
        done = record.ended("confirm")
        monkeypatch.setattr("samtune.views.status.now", lambda: begun + 60 * done)
        with record.lock():
            return status_text(status_of(record)).splitlines()[1]

    spaces = [member(base, k) for k in (0, 1) for base in rows_of(lab, "sgd", "good", "near")]
    with Record.create(runs, "run", [study_row(space, 1) for space in spaces]) as record:
        play(SearchStage(record, spaces), record)
        stage, told = confirming(record, spaces)
        record.add_event("confirm started")
        assert play(stage, record, 24) == 24
        assert left().endswith("about 6:00 left to the look at 5 seeds"), "6 of 30, a minute each"
        play(stage, record, 8)
        assert told == ["after 5 seeds: sgd.0, near.0, sgd.1, near.1 go on"]
        # The four have 10 seeds each at the next look, and the two of `good` stay at 5.
        assert left().endswith("about 18:00 left to the look at 10 seeds")
        play(stage, record)
        assert per_row(record) == {"sgd": 20, "good": 10, "near": 20}
        assert {row["seed_bundle"] for row in repeats_of(record)} == {*range(10), *range(100, 110)}
        board, _ = compare([record.folder])
        rows = board.set_index("space")
        assert rows.loc["good", "verdict_about"] == "configuration"
        assert rows["n"].fillna(0).to_dict() == {"sgd": 0, "good": 10, "near": 20}


def test_seeds_outside_the_plan_are_marked(runs: Path, lab: str) -> None:
    spaces = rows_of(lab, "sgd", "good")
    with recorded(runs, spaces) as record:
        stage, told = confirming(record, spaces)
        assert play(stage, record) == 10 and told == ["after 5 seeds: all is decided"]
        with pytest.raises(RunError, match=r"the plan of 5 or 10 seeds each, until decided, whi"):
            settled(record, Asked(until_decided=True, max_seeds=20), spaces)
        assert settled(record, Asked(until_decided=True), spaces) == SeedPlan((5, 10))
        assert play(confirming(record, spaces, Asked(seeds=7))[0], record) == 4
        plans = {(row["space"], row["seed_bundle"]): row["plan"] for row in repeats_of(record)}
        assert {plans[row, seed] for row in ("sgd", "good") for seed in range(5)} == {"looks 5 10"}
        assert [plans[row, seed] for row in ("sgd", "good") for seed in (5, 6)] == ["added"] * 4


def test_a_fixed_plan_gets_added_seeds_too(runs: Path, lab: str) -> None:
    spaces = rows_of(lab, "sgd")
    with recorded(runs, spaces) as record:
        assert play(confirming(record, spaces, Asked())[0], record) == 5
        assert play(confirming(record, spaces, Asked(seeds=6))[0], record) == 1
        assert [row["plan"] for row in repeats_of(record)] == ["fixed 5"] * 5 + ["added"]
        with pytest.raises(RunError, match="the plan of 5 seeds each, which cannot change"):
            settled(record, Asked(until_decided=True), spaces)


def test_a_diverged_row_has_no_verdict_to_wait_for(runs: Path, lab: str) -> None:
    spaces = rows_of(lab, "sgd", "lost")
    with recorded(runs, spaces) as record:
        stage, told = confirming(record, spaces)
        play(stage, record)
        assert told == ["after 5 seeds: all is decided"]
        assert per_row(record) == {"sgd": 5, "lost": 4}


def test_the_best_by_validation_stands_in_for_sgd(runs: Path, lab: str) -> None:
    spaces = rows_of(lab, "near", "same", "good")
    with recorded(runs, spaces) as record:
        stage, told = confirming(record, spaces)
        play(stage, record)
        assert told == ["after 5 seeds: near, good go on"]


def test_a_run_without_a_plan_had_a_fixed_one(runs: Path, lab: str) -> None:
    spaces = rows_of(lab, "sgd")
    with recorded(runs, spaces) as record:
        play(ConfirmStage(record, spaces, None, [3]), record)
        assert {row["plan"] for row in repeats_of(record)} == {None}
        assert settled(record, Asked(seeds=4), spaces) == SeedPlan((3,), 4)


def test_repeats_measure_their_sharpness_where_the_space_says_so(runs: Path, lab: str) -> None:
    (space,) = rows_of(lab, "sgd")
    for asked in (True, False):
        confirm = space.confirm.model_copy(update={"sharpness": asked})
        own = replace(space, confirm=confirm)
        with recorded(runs, [own], f"sharp-{asked}".lower()) as record:
            play(ConfirmStage(record, [own], None, [1]), record)
            (repeat,) = record.trials(stage="confirm")
        assert repeat.config.sharpness is asked


def test_a_repeat_measures_its_model_in_its_worker(two_slots: Cluster, runs: Path) -> None:
    words = ["confirm.sharpness=true", "task.train_size=48", "asha.grace=1", "budget.kind=epochs"]
    words += ["budget.per_trial=1", "budget.trials=1", "resources.parallel=2"]
    space = SearchSpace.load("sgd", words)
    with record_of(runs, [space]) as record:
        winner = SearchStage(record, [space]).next()
        assert winner is not None
        attempt, _ = record.start_attempt(winner)
        report = {"epoch": 1, "used": 1.0, "metrics": {"val_acc": 0.5}, "facts": {}}
        report |= {"checkpoint": None, "checkpoint_sha256": None}
        record.add_report(winner.trial, attempt, report, "val_acc")
        record.end_trial(winner.trial, "completed")
        stage = ConfirmStage(record, [space], None, [1])
        run_stages([stage], record, two_slots, QuietView(), Stop())
        told: list[str] = []
        # The command has nothing left to do.
        assert measure(record, [], {}, told.append) == told == []
    (row,) = tables.read(runs / "run" / "repeats.parquet", "repeats").to_pylist()
    assert row["state"] == "completed" and row["test_openings"] == 1
    assert all(row[name] is not None for name in (*MEASURES, *SETTINGS))
    assert (row["sharp_samples"], row["sharp_m"], row["sharp_bn_mode"]) == (48, 128, "eval")
    assert row["sharp_worst_rho"] > 0 and len(row["test_bits"]) == 63


def test_a_plan_can_change_until_test_may_be_opened(runs: Path, lab: str) -> None:
    spaces = rows_of(lab, "sgd")
    with recorded(runs, spaces) as record:
        assert settled(record, Asked(), spaces).text == "fixed 5"
        assert settled(record, Asked(seeds=3), spaces).text == "fixed 3"
        repeat = ConfirmStage(record, spaces, None, [3]).next()
        assert repeat is not None
        record.start_attempt(repeat)
        assert settled(record, Asked(seeds=4), spaces) == SeedPlan((3,), 4)
        assert record.meta("plan") == "fixed 3"


def test_many_variants_are_confirmed_until_decided() -> None:
    few = [SearchSpace.load(name) for name in ("sgd", "sam", "asam")]
    many = [*few, SearchSpace.load("gsam")]
    assert asked_plan(Asked(), few) == SeedPlan((5,))
    assert asked_plan(Asked(), many) == SeedPlan((5, 10, 15, 20))
    assert asked_plan(Asked(until_decided=True), few) == SeedPlan((5, 10, 15, 20))
    assert asked_plan(Asked(max_seeds=15), few) == SeedPlan((5, 10, 15))
    assert asked_plan(Asked(until_decided=False), many) == SeedPlan((5,))
    assert asked_plan(Asked(seeds=4), many) == SeedPlan((4,))
    two = [SearchSpace.load(name, ["confirm.seeds=2"]) for name in ("sgd", "sam", "asam", "gsam")]
    assert asked_plan(Asked(), two) == SeedPlan((2,))
    for asked, match in (
        (Asked(seeds=4, until_decided=True), "seeds are a fixed plan"),
        (Asked(max_seeds=12), "the looks are at 5, 10, 15 or 20 seeds; choose 10, 15 or 20"),
    ):
        with pytest.raises(RunError, match=match):
            asked_plan(asked, many)


@pytest.mark.parametrize("plan", [SeedPlan((5,)), SeedPlan((5, 10, 15, 20))])
def test_a_plan_is_read_as_it_is_written(plan: SeedPlan) -> None:
    assert SeedPlan.of(plan.text) == plan
