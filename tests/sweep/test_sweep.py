"""Sweeps through real Ray Tune: what is run, recorded, stopped and confirmed."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from lab_sweeps import by_mode, one_at_a_time, record_of, sweep

from analysis.board import records
from analysis.leaderboard import leaderboard
from samtune.cluster import nodes
from samtune.cluster.start import Cluster
from samtune.record import tables
from samtune.record.export import export
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace
from samtune.sweep.confirm_stage import ConfirmStage
from samtune.sweep.live import QuietView
from samtune.sweep.run_stages import run_stages
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.stop import Stop

pytestmark = pytest.mark.slow

LAB = '''
import errno
import os
import time
import samtune

def quick(config):
    """Reports lr as its accuracy for ten epochs, and misbehaves where `mode` says so."""
    lr, mode = config.knobs["lr"], config.knobs.get("mode", "good")
    if mode == "raise":
        raise ValueError("the data set is upside down")
    if mode == "silent":
        return
    if mode == "die":
        os._exit(7)
    if mode == "oom":
        raise MemoryError("no 8 GB left")
    place = os.path.join(config.checkpoint_dir, "epoch")
    first = mode.endswith("once") and not os.path.exists(place)
    for epoch in range(1 if first or not os.path.exists(place) else 3, 21):
        if epoch == 3 and (first or mode == "hang"):
            open(place, "w").close()
            match mode:
                case "hang" | "hang once":
                    time.sleep(600)
                case "memory once":
                    with open(os.path.join(os.path.dirname(__file__), "memory.events"), "w") as f:
                        f.write("low 0\\noom 3\\noom_kill 1\\noom_group_kill 0\\n")
                    os._exit(7)
                case "die once":
                    os._exit(7)
                case "raise once":
                    raise OSError("the network is away")
                case "full once":
                    raise OSError(errno.ENOSPC, "No space left on device")
        if mode == "nan" and epoch == 2:
            samtune.report(epoch=epoch, val_acc=float("nan"))
        if mode == "missing":
            samtune.report(epoch=epoch, accuracy=0.5)
        if mode == "peek":
            samtune.report(epoch=epoch, val_acc=0.5, test_acc=0.5)
        if mode == "none":
            samtune.report(epoch=epoch, val_acc=None)
        samtune.report(epoch=epoch, val_acc=lr + epoch / 1000)
'''


@pytest.fixture
def lab(lab_of: Callable[[str], str]) -> str:
    return lab_of(LAB)


def space_file(lab: str, knobs: str, name: str = "lab", **sections: str) -> Path:
    sections = {
        "budget": "{kind: epochs, per_trial: 10}",
        "asha": "{grace: 2, factor: 3}",
        **sections,
    }
    text = f"samtune: 1\ntrainable: {lab}:quick\nknobs:\n{knobs}\n"
    text += "".join(f"{section}: {body}\n" for section, body in sections.items())
    path = Path(f"{name}.yaml")
    path.write_text(text)
    return path


def assert_rungs_replay(record: Record, spaces: Sequence[SearchSpace]) -> None:
    """Assert that every recorded decision follows from the reports before it."""
    SearchStage(record, spaces)
    assert not [event["detail"] for event in record.events() if event["kind"] == "replay differs"]


def test_asha_prunes_the_poor_and_the_record_knows_why(
    two_slots: Cluster, runs: Path, lab: str
) -> None:
    grid = "  lr: {grid: [0.5, 0.4, 0.3, 0.2, 0.1, 0.6]}"
    spaces = [SearchSpace.load(space_file(lab, grid, search="{method: grid}"))]
    with record_of(runs, spaces) as record:
        progress = sweep(record, spaces, one_at_a_time(two_slots))
        trials = {trial.config.knobs["lr"]: trial for trial in record.trials()}
        reports = Counter(report.trial for report in record.reports())
        assert progress.states["completed"] + progress.states["pruned"] == 6
        assert trials[0.5].state == trials[0.6].state == "completed"
        assert reports[trials[0.5].trial] == 10, "a trial is ended when its budget is spent"
        assert trials[0.1].state == "pruned" and reports[trials[0.1].trial] == 2
        assert "rung 0" in (trials[0.1].reason or "")
        assert trials[0.1].facts["hostname_hash"]
        assert_rungs_replay(record, spaces)
        assert [e["kind"] for e in record.events()] == ["search started", "search ended"]


def test_a_paused_trial_goes_on_when_it_is_promoted(
    two_slots: Cluster, runs: Path, lab: str
) -> None:
    grid = "  lr: {grid: [0.6, 0.1, 0.2, 0.3, 0.4, 0.5]}"
    words = {"search": "{method: grid}", "asha": "{mode: promote, grace: 2, factor: 3}"}
    spaces = [SearchSpace.load(space_file(lab, grid, **words))]
    with record_of(runs, spaces) as record:
        progress = sweep(record, spaces, one_at_a_time(two_slots))
        trials = {trial.config.knobs["lr"]: trial for trial in record.trials()}
        causes = {
            lr: [a["cause"] for a in record.attempts(trial=trial.trial)]
            for lr, trial in trials.items()
        }
        assert causes[0.6][0] == "paused" and causes[0.6][-1] == "completed"
        assert causes[0.1] == ["paused"] and trials[0.1].state == "pruned"
        assert +Counter(progress.states) == Counter(t.state for t in trials.values())
        assert_rungs_replay(record, spaces)


def test_misbehaving_trials_end_alone_and_say_why(
    two_slots: Cluster, runs: Path, lab: str
) -> None:
    knobs = "  lr: 0.5\n  mode: {grid: [raise, nan, silent, good, missing, none, die, peek]}"
    spaces = [SearchSpace.load(space_file(lab, knobs, search="{method: grid}"))]
    with record_of(runs, spaces) as record:
        sweep(record, spaces, two_slots)
        trials = by_mode(record)
        assert {mode: trial.state for mode, trial in trials.items()} == {
            **{mode: "error" for mode in ("raise", "silent", "missing", "none", "die", "peek")},
            **{"nan": "diverged", "good": "completed"},
        }
        reasons = {mode: trial.reason or "" for mode, trial in trials.items()}
        assert "the data set is upside down" in reasons["raise"]
        assert "without a report" in reasons["silent"]
        assert "lacks 'val_acc'" in reasons["missing"]
        assert "None, not a number" in reasons["none"]
        assert "without a permit to open test" in reasons["peek"]
        assert reasons["die"] == "worker_died: its process was killed, or crashed"
        assert "epoch 2" in reasons["nan"]
        judged = [r.trial for r in record.reports() if r.rung is not None]
        assert trials["nan"].trial not in judged and trials["good"].trial in judged
        assert len(list(record.reports(trial=trials["nan"].trial))) == 2
        told = {event["trial"]: event["detail"] for event in record.events()}
        assert "Traceback" in told[trials["raise"].trial]
        assert "Worker exit detail" in told[trials["die"].trial]


def test_a_failed_attempt_goes_on_from_its_checkpoint_or_is_final(
    two_slots: Cluster, runs: Path, lab: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The trial writes here what the kernel would write.
    monkeypatch.setattr(nodes, "_memory_events", lambda: [Path("memory.events").absolute()])
    modes = ["die once", "raise once", "hang once", "raise", "oom", "silent", "peek", "hang"]
    modes.append("memory once")
    knobs = f"  lr: 0.5\n  mode: {{grid: {json.dumps(modes)}}}"
    words = {"search": "{method: grid}", "resources": "{retries: 1, stall_after: 8}"}
    spaces = [SearchSpace.load(space_file(lab, knobs, asha="{grace: 10, factor: 3}", **words))]
    with record_of(runs, spaces) as record:
        sweep(record, spaces, two_slots)
        trials = by_mode(record)
        causes = {
            mode: [a["cause"] for a in record.attempts(trial=trial.trial)]
            for mode, trial in trials.items()
        }
        assert causes == {
            "die once": ["worker_died", "completed"],
            "raise once": ["error", "completed"],
            "hang once": ["stalled", "completed"],
            "raise": ["error", "error"],
            "oom": ["oom", "oom"],
            "silent": ["error"],
            "peek": ["error"],
            "hang": ["stalled", "stalled"],
            "memory once": ["oom", "completed"],
        }
        reasons = {mode: trial.reason or "" for mode, trial in trials.items()}
        assert reasons["hang"].startswith("stalled: no report for 8 s; resources.stall_after")
        assert reasons["oom"] == "oom: MemoryError: no 8 GB left"
        for mode in ("die once", "raise once", "hang once", "memory once"):
            epochs = [report.epoch for report in record.reports(trial=trials[mode].trial)]
            assert trials[mode].state == "completed" and epochs == list(range(1, 11))
        retries = [event["detail"] for event in record.events() if event["kind"] == "retry"]
        assert len(retries) == 7 and any("the network is away" in detail for detail in retries)


def test_a_checkpoint_that_finds_no_room_stops_the_sweep_and_costs_nothing(
    two_slots: Cluster, runs: Path, lab: str
) -> None:
    knobs = "  lr: 0.5\n  mode: {grid: [good, full once]}"
    words = {"search": "{method: grid}", "asha": "{grace: 10, factor: 3}"}
    spaces = [SearchSpace.load(space_file(lab, knobs, **words))]
    stop = Stop()
    with record_of(runs, spaces) as record:
        sweep(record, spaces, two_slots, stop)
        assert stop.why == "disk full" and "No space left" in stop.detail
        cut = by_mode(record)["full once"]
        assert cut.state == "cancelled"
        progress = sweep(record, spaces, two_slots)
        assert progress.states["completed"] == 2 and progress.ended == 2
        assert [a["cause"] for a in record.attempts(trial=cut.trial)] == [
            "disk_full",
            "completed",
        ]


def test_a_mistake_that_fails_every_trial_is_given_up_early(
    two_slots: Cluster, runs: Path, lab: str
) -> None:
    knobs = "  lr: {min: 0.1, max: 0.9}\n  mode: raise"
    spaces = [SearchSpace.load(space_file(lab, knobs, search="{method: random}"))]
    stop = Stop()
    with record_of(runs, spaces) as record:
        progress = sweep(record, spaces, two_slots, stop)
        assert stop.why == "gave up" and progress.ended < 10 < progress.total


def test_a_stop_leaves_a_whole_record(two_slots: Cluster, runs: Path, lab: str) -> None:
    stop = Stop()

    class StopAtThird(QuietView):
        def event(self, text: str) -> None:
            if text.startswith("[3/"):
                stop.request()

    knobs = "  lr: {min: 0.1, max: 0.9}"
    spaces = [SearchSpace.load(space_file(lab, knobs))]
    with record_of(runs, spaces) as record:
        run_stages([SearchStage(record, spaces)], record, two_slots, StopAtThird(), stop)
        states = Counter(trial.state for trial in record.trials())
        assert "running" not in states and 3 <= sum(states.values()) <= 5
        assert all(trial.ended_at for trial in record.trials())
        assert all(row["ended_at"] for row in record.attempts())
        assert_rungs_replay(record, spaces)
        assert record.events()[-1]["kind"] == "search stopped"


def test_variants_are_confirmed_on_equal_fresh_seeds_and_compared(
    two_slots: Cluster, runs: Path
) -> None:
    small = [
        *("budget.kind=epochs", "budget.per_trial=2", "budget.trials=1", "search.method=random"),
        *("asha.grace=1", "confirm.seeds=2", "lr=0.05", "weight_decay=5e-4"),
    ]
    spaces = [SearchSpace.load("sgd", small), SearchSpace.load("sam", [*small, "rho=0"])]
    with record_of(runs, spaces) as record:
        sweep(record, spaces, two_slots)
        confirm = ConfirmStage(record, spaces, None, [2])
        run_stages([confirm], record, two_slots, QuietView(), Stop())
        export(record)
        assert_rungs_replay(record, spaces)
        folder = record.folder
        openings = record.openings()
        assert len(openings) == 4 and all(opening["used_at"] for opening in openings)
        assert not any(r.metrics.get("test_acc") for r in record.reports() if r.trial <= 2)
        # Repeats already on record are not run again; more seeds add only what is missing.
        assert ConfirmStage(record, spaces, None, [2]).progress.total == 0
        assert ConfirmStage(record, spaces, None, [5]).progress.total == 6
        # A repeat that was cut short is run again, under a new permit; one that had come to its
        # end, and was only not said to have, is not.
        first, second = list(record.trials(stage="confirm"))[:2]
        for cut in (first, second):
            record.end_trial(cut.trial, "cancelled")
        with record._db as db:
            last = max(r.seq for r in record.reports(trial=second.trial))
            db.execute("DELETE FROM decisions WHERE seq = ?", (last,))
            db.execute("DELETE FROM reports WHERE seq = ?", (last,))
        again = ConfirmStage(record, spaces, None, [2])
        assert record.trial(first.trial).state == "completed"
        (progress,) = run_stages([again], record, two_slots, QuietView(), Stop())
        assert progress.states["completed"] == 1
        assert len(record.openings()) == 5
        export(record)
        kept = {path.name for path in (folder / "checkpoints").iterdir()}
        assert kept == {f"{t.trial:05d}" for t in record.trials(stage="confirm")}

    curves = defaultdict(list)
    for row in tables.read(folder / "curves.parquet", "curves").to_pylist():
        curves[row["trial_key"]].append([row[c] for c in ("train_loss", "val_loss", "val_acc")])
    trials = tables.read(folder / "trials.parquet", "trials").to_pylist()
    key = {row["variant"]: row["trial_key"] for row in trials if row["trial"] == 0}
    assert len(curves[key["sgd"]]) == 2
    assert curves[key["sgd"]] == curves[key["sam"]], "SAM with rho 0 is SGD, bit for bit"

    repeats = tables.read(folder / "repeats.parquet", "repeats").to_pylist()
    seen = {(row["variant"], row["seed_bundle"]): row for row in repeats}
    assert len(seen) == 4
    for bundle in (0, 1):
        assert seen["sgd", bundle]["test_correct"] == seen["sam", bundle]["test_correct"]
    rows = records(leaderboard([folder]))
    by_variant = {row["variant"]: row for row in rows}
    assert by_variant["sgd"]["test_openings"] == 3
    assert by_variant["sam"]["test_openings"] == 2
    assert by_variant["sgd"]["test_acc_mean"] == by_variant["sam"]["test_acc_mean"] > 0.3
    assert by_variant["sam"]["see_per_run"] == 2 * by_variant["sgd"]["see_per_run"] == 4


SHUFFLED = """
import dataclasses
import numpy as np
import trainables.loop as loop
import trainables.vision as vision

def quick(config):
    honest = loop.open_test

    def shuffled(*arguments):
        split = honest(*arguments)
        order = np.random.default_rng(0).permutation(len(split.labels))
        return dataclasses.replace(split, labels=split.labels[order])

    loop.open_test = shuffled
    try:
        vision.sgd(config)
    finally:
        loop.open_test = honest

for word in ("variant", "bases", "knobs", "task", "see_per_epoch"):
    setattr(quick, word, getattr(vision.sgd, word))
"""


def test_the_leaderboard_reads_the_held_out_test_split(
    two_slots: Cluster, runs: Path, lab: str
) -> None:
    """If the test labels are shuffled, test accuracy is chance, and validation accuracy is not."""
    Path(f"{lab}.py").write_text(SHUFFLED)
    path = space_file(lab, "  lr: 0.1", budget="{kind: epochs, per_trial: 6, trials: 1}")
    spaces = [SearchSpace.load(path)]
    with record_of(runs, spaces) as record:
        sweep(record, spaces, two_slots)
        run_stages(
            [ConfirmStage(record, spaces, None, [3])], record, two_slots, QuietView(), Stop()
        )
        export(record)
        row = records(leaderboard([record.folder]))[0]
    assert row["repeats"] == 3 and row["val_acc_mean"] > 0.7
    # 1500 draws at 10 %: six standard errors are 4.6 points.
    assert abs(row["test_acc_mean"] - 0.1) < 0.046


def test_a_stray_trainables_folder_is_not_what_workers_run(
    two_slots: Cluster, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stray = tmp_path / "here" / "trainables"
    stray.mkdir(parents=True)
    (stray / "__init__.py").write_text("raise SystemExit('the stray one was imported')")
    (stray / "vision.py").write_text("raise SystemExit('the stray one was imported')")
    monkeypatch.chdir(stray.parent)
    spaces = [SearchSpace.load("sgd", ["budget.per_trial=1", "budget.trials=2", "asha.grace=1"])]
    with record_of(runs, spaces) as record:
        sweep(record, spaces, two_slots)
        assert [trial.state for trial in record.trials()] == ["completed"] * 2
    shutil.rmtree(stray)
