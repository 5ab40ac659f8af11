"""Faults that a sweep must survive, with the tests of each: injected faults, and real kills.

 1  a worker is killed              test_a_kill_at_a_random_epoch_repeats_at_most_one,
                                    test_each_trial_bears_its_own_fault,
                                    test_sweep: test_a_failed_attempt_goes_on_from_its_checkpoint
 2  the driver is killed            test_killed_runs: test_a_killed_run_ends_in_the_tables_of_one,
                                    test_crash_points: test_a_sweep_survives_a_crash_at_every
 3  it and all of Ray are killed    test_a_run_goes_on_after_its_whole_tree_was_killed
 4  a node is lost                  test_the_trials_of_a_lost_node_go_on_elsewhere
 5  the disk is full                test_a_run_goes_on_after_its_whole_tree_was_killed,
                                    test_crash_points: test_a_sweep_survives_a_crash_at_every,
                                    test_resume: test_a_full_disk_stops_cleanly,
                                    test_checkpoint: test_a_disk_that_fails_at_any_write
 6  torn files                      test_damage: test_a_torn_log, test_torn_tables,
                                    test_a_torn_journal,
                                    test_a_run_that_finds_its_journal_torn,
                                    test_checkpoint: test_a_damaged_newest_falls_back
 7  a bit has changed               test_damage: test_a_flipped_bit_in_a_table,
                                    test_a_flipped_bit_in_the_record,
                                    test_a_flipped_bit_in_the_log,
                                    test_a_damaged_checkpoint_is_told,
                                    test_checkpoint: test_every_single_flipped_bit
 8  NaN, infinity, huge loss        test_each_trial_bears_its_own_fault,
                                    test_search: test_a_diverged_trial_counts_as_worse
 9  host memory                     test_each_trial_bears_its_own_fault,
                                    test_memory_kills: test_trials_go_on_after_ray_has_killed,
                                    test_sweep: test_a_failed_attempt_goes_on_from_its_checkpoint
10  device memory                   test_each_trial_bears_its_own_fault
11  a trial hangs                   test_sweep: test_a_failed_attempt_goes_on_from_its_checkpoint
12  a loader process dies           there is none: test_no_trial_of_ours_has_loader_processes
13  the clock jumps                 test_a_clock_that_jumps
14  two runs, one name              test_cli: test_of_two_runs_of_one_name_one_wins,
                                    test_killed_runs: test_a_run_is_stopped_from_elsewhere
15  a lock is left                  it cannot be, the kernel's ends with its process:
                                    test_a_lock_ends_with_its_process
16  Ctrl-C once, twice, in a write  test_stop: test_a_signal_stops_cleanly,
                                    test_signals: test_a_signal_in_a_write_stops,
                                    test_signals: test_a_signal_at_a_random_time,
                                    test_sweep: test_a_second_signal_ends_the_process_at_once
17  SIGTERM, SIGHUP                 test_stop: test_a_signal_stops_cleanly,
                                    test_signals: test_a_signal_in_a_write_stops,
                                    test_sweep: test_a_signal_asks_to_stop_unless_it_is_ignored
18  half a space file               test_space_messages: test_files_that_are_no_space
19  a hostile space file            test_space_hostile: test_hostile_input_is_refused,
                                    test_space_hostile: test_hostile_input_takes_little_memory
20  a hostile name or link          test_security: test_a_name_is_refused,
                                    test_every_command_refuses, test_a_run_that_is_a_link
21  a hostile checkpoint            test_checkpoint: test_a_payload_is_refused_and_not_executed
22  another trial's checkpoint      test_trial_resume: test_a_checkpoint_of_another_trial
23  a wrong or hostile archive      test_datasets: test_a_truncated_archive_is_refused,
                                    test_a_tar_archive_that_leads_out
24  two fetch at once               test_datasets: test_of_several_processes_one_downloads
25  no network                      test_datasets: test_without_a_network_it_says
26  ports                           test_security: test_nothing_listens_beyond_rays_own_ports,
                                    test_ray_tells_nobody, test_an_open_ray_is_refused
27  other versions                  test_killed_runs: test_a_run_is_stopped_from_elsewhere
28  the space or code changes       test_killed_runs: test_a_run_is_stopped_from_elsewhere,
                                    test_killed_runs: test_code_is_told_apart
29  10,000 trials                   test_status_of_10_000_trials
30  a report doubled, late, early   test_resume: test_reports_that_come_twice_late_or_out_of_order
31  escapes for a terminal          test_each_trial_bears_its_own_fault,
                                    test_space_hostile: test_hostile_input_is_refused
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from test_crash_points import content, failed_at, run_or_resume
from test_record import STUDY, fill
from test_sweep import record_of

from benchmarks import reliability
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


def test_every_row_of_the_matrix_names_tests_that_there_are() -> None:
    rows = re.findall(r"^ ?(\d+)  .*\n(?: {20,}.*\n)*", __doc__ or "", re.MULTILINE)
    assert rows == [str(row) for row in range(1, 32)]
    for row in re.split(r"\n(?= ?\d+  )", __doc__ or "")[1:]:
        module = Path(__file__).stem
        names = re.findall(r"(test_\w+)(:?)", row)
        assert any(not colon for _, colon in names), row
        for name, colon in names:
            if colon:
                module = name
            elif (file := ROOT / "tests" / f"{module}.py").exists():
                assert f"def {name}" in file.read_text(), f"{module} has no {name}"


def test_the_published_figures_count_tests_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"tests/trainables/test_variants_train.py::{reliability.CUTS}" in reliability.nodes()
    monkeypatch.setitem(reliability.PASSED, "gone", ("test_that_was_renamed",))
    with pytest.raises(LookupError, match="test_that_was_renamed is in no file"):
        reliability.nodes()


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
    """No loader process exists that could die, because batches are indexed from resident data."""
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
from test_sweep import record_of

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
