"""Faults that a sweep must survive: injected faults and real kills. See `test_fault_matrix.py`."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from lab_sweeps import record_of
from test_crash_points import content, failed_at, run_or_resume
from test_record import STUDY, fill

from benchmarks.reliability import Sweep, left_over
from samtune.cluster.start import Cluster
from samtune.record import tables
from samtune.record.export import export
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace
from samtune.sweep.live import QuietView
from samtune.sweep.run_stages import run_stages
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.stop import Stop
from samtune.views.status import status_of

ROOT = Path(__file__).parents[2]


KILLED = """
import itertools
import os
import random
import signal
from pathlib import Path

import trainables.steps
import trainables.vision as vision


def killed(config):
    folder, steps = Path(config.checkpoint_dir), itertools.count()
    oracle = trainables.steps.GradientOracle
    last = random.Random(folder.name).randrange(96)

    def counted(*words, **more):
        if next(steps) == last and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return oracle(*words, **more)

    trainables.steps.GradientOracle = counted
    try:
        vision.sgd(config)
    finally:
        trainables.steps.GradientOracle = oracle


for word in ("variant", "bases", "knobs", "task", "see_per_epoch"):
    setattr(killed, word, getattr(vision.sgd, word))
"""


@pytest.mark.slow
def test_a_kill_at_a_random_epoch_repeats_at_most_one(
    two_slots: Cluster, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three real trials of six epochs of 16 steps are killed, each at a step drawn by its name."""
    (tmp_path / "lab_of_kills.py").write_text(KILLED)
    monkeypatch.chdir(tmp_path)
    Path("lab.yaml").write_text(
        "samtune: 1\ntrainable: lab_of_kills:killed\nbudget: {kind: epochs, per_trial: 6}\n"
        "task: {dataset: digits, model: small_cnn, batch_size: 64}\n"
        "asha: {grace: 6, factor: 2}\nsearch: {method: grid}\n"
        "knobs:\n  lr: {grid: [0.01, 0.02, 0.05]}\n"
    )
    spaces = [SearchSpace.load(Path("lab.yaml"))]
    with record_of(runs, spaces) as record:
        run_stages([SearchStage(record, spaces)], record, two_slots, QuietView(), Stop())
        export(record)
        rows = tables.read(record.folder / "trials.parquet", "trials").to_pylist()
        assert [row["attempts"] for row in rows] == [2] * 3
        assert [row["epochs_done"] for row in rows] == [6] * 3
        assert all(row["epochs_repeated"] <= 1 for row in rows)
        died_in = []
        for trial in record.trials():
            first, second = (
                {r.epoch for r in record.reports(trial=trial.trial) if r.attempt == k}
                for k in (0, 1)
            )
            died_in.append(random.Random(f"{trial.trial:05d}").randrange(96) // 16 + 1)
            # A report waits until its checkpoint is written behind the training, so the kill can
            # come before that of the last whole epoch.
            assert first in (set(range(1, died_in[-1])), set(range(1, died_in[-1] - 1)))
            assert first | second == set(range(1, 7)) and min(second) >= died_in[-1] - 1
        assert len({*died_in}) > 1


LAB = """
import os
import resource
import signal
from pathlib import Path

import torch

import samtune


def quick(config):
    mode, once = config.knobs["mode"], Path(config.checkpoint_dir, "once")
    for epoch in range(1, 4):
        loss, accuracy = 0.5, 0.5
        if epoch == 2:
            match mode:
                case "infinite":
                    accuracy = float("inf")
                case "huge loss":
                    loss = 1e308 * 10
                case "nan in validation alone":
                    accuracy = float("nan")
                case "gpu memory":
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
                case "host memory":
                    used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
                    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, -1))
                    torch.ones(2**30)
                case "kill" if not once.exists():
                    once.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                case "escapes":
                    raise ValueError("\\x1b[2J\\x1b]0;owned\\x07 <script>\\u202e")
        samtune.report(epoch=epoch, val_acc=accuracy, train_loss=loss)
"""


def test_each_trial_bears_its_own_fault(
    two_slots: Cluster,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    (tmp_path / "lab_of_faults.py").write_text(LAB)
    monkeypatch.chdir(tmp_path)
    diverging = ["infinite", "huge loss", "nan in validation alone"]
    modes = [*diverging, "gpu memory", "host memory", "kill", "escapes", "none"]
    Path("lab.yaml").write_text(
        "samtune: 1\ntrainable: lab_of_faults:quick\nbudget: {kind: epochs, per_trial: 3}\n"
        "asha: {grace: 2, factor: 2}\nsearch: {method: grid}\nresources: {retries: 1}\n"
        f"knobs:\n  mode: {{grid: {json.dumps(modes)}}}\n"
    )
    told: list[str] = []

    class Listen(QuietView):
        def event(self, text: str) -> None:
            told.append(text)

    spaces = [SearchSpace.load(Path("lab.yaml"))]
    with record_of(runs, spaces) as record:
        run_stages([SearchStage(record, spaces)], record, two_slots, Listen(), Stop())
        trials = {trial.config.knobs["mode"]: trial for trial in record.trials()}
        causes = {
            mode: [
                attempt["cause"].replace("pruned", "completed")
                for attempt in record.attempts(trial=trial.trial)
            ]
            for mode, trial in trials.items()
        }
        assert causes == {
            **{mode: ["diverged"] for mode in diverging},
            **{mode: ["oom", "oom"] for mode in ("gpu memory", "host memory")},
            **{"kill": ["worker_died", "completed"], "escapes": ["error", "error"]},
            "none": ["completed"],
        }
        epochs = {
            mode: [report.epoch for report in record.reports(trial=trial.trial)]
            for mode, trial in trials.items()
        }
        assert all(epochs[mode] == [1, 2] for mode in diverging), "no epoch after the divergence"
        record_property("epochs trained after a divergence", f"0 of {len(diverging)}")
        judged = {report.trial for report in record.reports() if report.rung is not None}
        assert judged == {trials["kill"].trial, trials["none"].trial}
        reasons = [trial.reason or "" for trial in trials.values()]
        details = [event["detail"] for event in record.events()]
        assert "owned" in trials["escapes"].reason
        for text in (*told, *reasons):
            assert text.isprintable(), repr(text)
        assert not any("\x1b" in detail for detail in details)


def test_a_lock_ends_with_its_process(runs: Path) -> None:
    with Record.create(runs, "mine", [STUDY]) as record:
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()

        def hold() -> None:
            with Record.open(runs, "mine") as theirs, theirs.lock():
                there.send("held")
                time.sleep(600)

        holder = context.Process(target=hold)
        holder.start()
        assert here.recv() == "held" and record.is_locked()
        holder.kill()
        holder.join()
        assert not record.is_locked()
        with record.lock():
            pass


def test_a_clock_that_jumps_changes_nothing_but_times(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = os.open(os.devnull, os.O_WRONLY)
    run_or_resume(memory / "steady", nobody)
    draw, true = random.Random(0), time.time
    monkeypatch.setattr(time, "time", lambda: true() + draw.uniform(-86_400, 86_400))
    for number in range(10, 80, 10):
        runs = memory / str(number)
        assert failed_at(number, runs, nobody)
        run_or_resume(runs, nobody)
        assert content(runs / "mine") == content(memory / "steady" / "mine")
        with Record.open(runs, "mine") as record:
            assert all(0 <= row["wall_s"] < 60 for row in record.attempts() if row["wall_s"])
            assert status_of(record)["seconds"] >= 0


def test_status_of_10_000_trials_is_one_pass_over_the_record(memory: Path) -> None:
    steps = {}
    for trials in (1000, 10_000):
        with Record.create(memory, f"of-{trials}", [STUDY]) as record:
            fill(record, trials=1, epochs=2)
            with record._db as db:
                db.execute(
                    "WITH RECURSIVE n(k) AS (SELECT 2 UNION SELECT k + 1 FROM n WHERE k < ?)"
                    " INSERT INTO trials (key, study, stage, number, origin, config, config_sha,"
                    " state, proposed_at, ended_at) SELECT key, study, stage, k, origin, config,"
                    " config_sha, state, proposed_at, ended_at FROM trials, n",
                    (trials,),
                )
                db.execute(
                    "INSERT INTO reports (trial, attempt, epoch, used, value, metrics, at)"
                    " SELECT t.trial, attempt, epoch, used, value, metrics, at"
                    " FROM trials t, reports WHERE t.trial > 1"
                )
            record.verify()
            count = itertools.count()
            record._db.set_progress_handler(lambda count=count: next(count) and 0, 100)
            tracemalloc.start()
            status = status_of(record)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert status["studies"][0]["states"] == {"completed": trials}
            steps[trials] = next(count), peak
    (few, small), (many, large) = steps.values()
    assert many < 11 * few and large < 11 * small
    assert large < 200e6


def test_no_trial_of_ours_has_loader_processes() -> None:
    """Batches are indexed from resident data, so no loader process could die."""
    for path in (ROOT / "trainables").rglob("*.py"):
        assert "DataLoader(" not in path.read_text(), path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_on_after_its_whole_tree_was_killed_and_its_disk_was_full(
    tmp_path: Path,
) -> None:
    whole, cut = Sweep(tmp_path, "whole"), Sweep(tmp_path, "cut")
    whole.start()
    assert whole.end()[0] == 0
    cut.start()
    assert cut.wait_for_reports(3) is not None
    before = cut.reports()
    assert left_over(cut.kill(tree=True), 30) == []
    assert before <= cut.reports()
    cut.start(str(ROOT / "tests" / "faults.py"), "enospc", "40")
    code, said = cut.end()
    assert code == 5 and "no room left" in said and "samtune resume cut" in said, said
    cut.start()
    assert cut.wait_for_reports(3) is not None
    assert left_over(cut.kill(tree=False), 30) == []
    cut.start()
    code, said = cut.end()
    assert code == 0, said
    assert cut.content() == whole.content() and cut.rungs_replay()


LOSE_A_NODE = """
import sys
from pathlib import Path
from ray.cluster_utils import Cluster
from samtune.cluster.start import cluster
from samtune.sweep.live import QuietView
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.stop import Stop
from samtune.sweep.run_stages import run_stages
from lab_sweeps import record_of

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
lost = [nodes.add_node(num_cpus=1)]

class Lose(QuietView):
    def event(self, text):
        print(text, flush=True)
        if lost and text.startswith("[2/"):
            nodes.remove_node(lost.pop(), allow_graceful=False)

words = ["resources.parallel=2", "search.method=random"]
spaces = [SearchSpace.load(Path("steady.yaml"), words)]
with record_of(Path("runs"), spaces) as record:
    with cluster([spaces[0].resources], nodes.address) as on:
        assert on.slots == 2, on
        run_stages([SearchStage(record, spaces)], record, on, Lose(), Stop())
    print(sorted({t.state for t in record.trials()}), len(list(record.trials())), "trials")
    print("causes", sorted({a["cause"] for a in record.attempts()}))
nodes.shutdown()
"""


@pytest.mark.slow
def test_the_trials_of_a_lost_node_go_on_elsewhere(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "run")
    lost = subprocess.run(
        [sys.executable, "-c", LOSE_A_NODE],
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "SAMTUNE_BEGAN": str(sweep.began),
        }
        | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert lost.returncode == 0, lost.stderr
    *_, ends, causes = lost.stdout.splitlines()
    assert ends == "['completed', 'pruned'] 12 trials", lost.stdout
    assert "node_lost" in causes or "worker_died" in causes, lost.stdout
