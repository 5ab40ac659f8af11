"""The benchmarks measure what they say they do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from lab_sweeps import record_of

from benchmarks import aims, checkpoints, loop, run_speeds
from benchmarks.one_process import cost
from benchmarks.process_tree import measure
from benchmarks.reliability import passed
from benchmarks.scale_sweep import _play
from benchmarks.side_by_side import rate
from benchmarks.sweep import TASK, accuracies
from benchmarks.sweep_peers import train_reporting, trial_config
from samtune.record.rows import Verdict
from samtune.space.search_space import SearchSpace
from samtune.sweep.search_stage import SearchStage

BURN = "import time\nwhile time.process_time() < 1.0: pass"


def test_what_outlives_a_command_counts_as_its_own_and_once() -> None:
    leave = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BURN!r}])"
    left = measure([sys.executable, "-c", leave])
    assert left.processes == 2 and left.cpu_s >= 0.25
    after = measure([sys.executable, "-c", "pass"])
    assert after.processes == 1 and after.cpu_s < 0.4


def test_a_command_is_measured_to_its_last_moment() -> None:
    """Only a look at the end sees one that is shorter than the pause between two looks."""
    burn = BURN.replace("1.0", "0.12")
    usage = measure([sys.executable, "-c", burn])
    assert usage.cpu_s >= 0.1 and usage.returncode == 0


def test_one_process_costs_its_own_time_and_memory() -> None:
    figures = cost("-c", f"{BURN}\nb'x' * 2**26")
    assert figures["cpu_s"] >= 0.5 and figures["peak_mb"] > 64
    with pytest.raises(RuntimeError, match=r"python -c raise SystemExit\(3\) ended with"):
        cost("-c", "raise SystemExit(3)")


def test_a_skipped_case_has_not_passed() -> None:
    suite = ElementTree.fromstring(
        "<s><testcase name='test_a[1]'/><testcase name='test_a[2]'><skipped/></testcase>"
        "<testcase name='test_b'/></s>"
    )
    assert passed([*suite], ["test_a"]) == 1


@pytest.mark.parametrize(
    "trained",
    [
        [{"knobs": {"lr": 0.1}, "used": 4.0, "val_acc": 0.5}],
        [{"knobs": {"lr": lr}, "used": 4.0, "val_acc": 0.5} for lr in (0.1, 0.2, 0.2)],
        [{"knobs": {"lr": lr}, "used": used, "val_acc": 0.5} for lr, used in ((0.1, 4), (0.2, 2))],
    ],
    ids=["too few", "too many", "one cut short"],
)
def test_a_contender_that_did_other_work_is_refused(trained: list[dict[str, Any]]) -> None:
    listed = [{"lr": 0.1}, {"lr": 0.2}]
    sweep = {"grid": {"lr": [0.1, 0.2]}, "per_trial": 4, "configurations": listed}
    with pytest.raises(SystemExit, match="of 2 configurations"):
        accuracies("peer", trained, sweep)


def test_a_peer_trains_what_samtune_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the same seeds, task and budget, and it records all work of the trial."""
    monkeypatch.setenv("SAMTUNE_BENCHMARK_LOG", str(tmp_path / "log"))
    space = SearchSpace.load("sam", ["budget.per_trial=2", "asha.grace=2"])
    sweep = {"task": TASK, "per_trial": 2.0}
    with record_of(tmp_path, [space]) as record:
        trial = SearchStage(record, [space]).next()
    assert trial is not None
    theirs, knobs = trial.config, {"lr": 0.1, "rho": 0.05}
    ours = trial_config(sweep, knobs)
    for part in ("seeds", "budget", "base", "variant"):
        assert getattr(ours, part) == getattr(theirs, part)
    value = train_reporting(sweep, knobs, lambda value: None)
    noted = json.loads((tmp_path / "log").read_text())
    assert (noted["used"], noted["val_acc"], noted["knobs"]) == (2, value, knobs)


class Instant:
    """A driver that takes no time and has so many trials."""

    def __init__(self, trials: int) -> None:
        self.left = trials

    def propose(self, name: str) -> dict[str, Any] | None:
        self.left -= 1
        return {} if self.left >= 0 else None

    def reported(self, trial: object, report: object) -> Verdict:
        return Verdict("continue")

    def ended(self, *_: object, **__: object) -> None: ...


def test_slots_that_never_wait_are_busy_all_the_time() -> None:
    """Epochs that are under way when the queue runs dry are no idle time."""
    driver: Any = Instant(15)
    reports, busy = _play(driver, 10, 1e4)
    assert reports == 150 and busy == pytest.approx(1, abs=1e-3)


def test_the_loop_is_timed_by_its_parts_and_beside_a_plain_one() -> None:
    rows = loop.measure(loop.SMALL, gpus=0, workers=0, words=(), at_once=2)
    assert [(row["loop"], row["variant"]) for row in rows] == [
        *(("samtune", "sgd"), ("samtune", "sam")),
        *(("DataLoader", "sgd"), ("DataLoader", "sam")),
        ("bare", "sgd"),
        *[("samtune", "sam")] * 3,
        *[("DataLoader", "sam")] * 2,
    ]
    assert not any(row.get("failed") for row in rows)
    for row in rows[:2]:
        # An epoch is two steps.
        assert row["eval_s"] + row["checkpoint_s"] + 2 * row["step_ms"] / 1000 > 0
        assert row["eval_s"] + 2 * row["step_ms"] / 1000 <= row["epoch_s"]
    alone, at_once = rows[5:7]
    assert at_once["of_alone"] == at_once["images_per_s"] / alone["images_per_s"] > 0
    assert "2 by mps          not measured: MPS is for GPUs" in loop.table(rows)
    assert loop.table(rows).count("\naim: ") == 5


def test_images_count_while_all_processes_train() -> None:
    """The second trains half as fast, and the third begins late."""
    assert rate([[0.0, 1.0, 2.0], [0.0, 2.0, 4.0]], 100) == pytest.approx(150)
    assert rate([[0.0, 1.0, 2.0], [0.0, 2.0, 4.0], [1.0, 2.0]], 100) == pytest.approx(250)
    with pytest.raises(RuntimeError, match="no two of the processes"):
        rate([[0.0, 1.0], [1.0, 2.0]], 100)


def test_figures_are_held_against_the_aims() -> None:
    def row(name: str, variant: str, speed: float, **words: object) -> dict[str, object]:
        return {
            "loop": name,
            "variant": variant,
            "images_per_s": speed,
            "step_ms": 1e5 / speed,
        } | words

    shared = {"graph": True, "at_once": 4}
    rows = [
        *(row("samtune", "sgd", 1000), row("samtune", "sam", 500)),
        *(row("samtune", "sgd", 1500, graph=True), row("samtune", "sam", 600, graph=True)),
        *(row("DataLoader", "sam", 200), row("bare", "sgd", 2000)),
        row("samtune", "sam", 700, way="turns", **shared),
        row("samtune", "sam", 900, way="mps", **shared),
        row("DataLoader", "sam", 300, at_once=4, way="turns"),
        {"loop": "samtune", "variant": "sam", "way": "mps", "missing": "none here"},
    ]
    step = "aim: a SAM step is at most 2.05 SGD steps: samtune"
    share = "aim: at least 60% of the bare loop's passes: samtune"
    assert list(aims.lines(rows)) == [
        *(f"{step} eager 2.00", f"{step} graph 2.50"),
        *(f"{share} eager sgd 50%", f"{share} eager sam 50%"),
        *(f"{share} graph sgd 75%", f"{share} graph sam 60%"),
        "aim: at least 5 times the trials an hour of the plain loop: 3.00 "
        "(samtune 4 by mps, graph; DataLoader 4 by turns, eager)",
    ]


def test_what_a_checkpoint_holds_up_is_timed_beside_what_it_did_at_first() -> None:
    found = checkpoints.measure("small_cnn", rounds=2)
    assert found["megabytes"] > 0.05
    assert found["held_s"].keys() == found["of_an_epoch"].keys()
    assert all(seconds > 0 for seconds in found["held_s"].values())


def test_the_speed_of_a_run_is_that_of_all_its_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = pd.Timestamp("2026-01-01", tz="UTC")
    hour = pd.Timedelta(hours=1)
    trials = pd.DataFrame(
        {
            "variant": ["sgd", "sgd", "sam", "sam"],
            "epochs_done": [4, 2, 4, 0],
            "budget_max": 4.0,
            "n_train": 100,
            "train_s": [3.0, 2.0, 8.0, 0.0],
            "data_s": [1.0, 0.0, 2.0, 0.0],
            "eval_s": [2.0, 1.0, 2.0, 0.0],
            "best_val_acc": [0.5, 0.75, 0.8, None],
            "started_at": begun,
            "ended_at": [begun + hour / 2, begun + hour, begun + hour, begun + hour],
        }
    )
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "trials.parquet").touch()
    table = SimpleNamespace(to_pandas=lambda: trials)
    monkeypatch.setattr(run_speeds.tables, "read", lambda path, name: table)
    assert [line.split() for line in run_speeds.lines(tmp_path)[1:]] == [
        ["run", "first", "sgd", "75.00", "100", "1.50", "2.5"],
        ["run", "first", "sam", "80.00", "40", "3.00", "2.5"],
    ]


@pytest.mark.parametrize(
    ("ends", "code", "begun", "said"),
    [
        # A sweep ends by itself on Ctrl-C, with its own exit code, and the next one began.
        ("kill -INT $PPID; exit 75", 130, 1, "stopped; output so far"),
        ("exit 3", 1, 3, "exit 3"),
        ("exit 0", 0, 3, "ok"),
    ],
)
def test_the_first_ten_minutes_end_as_their_commands_do(
    ends: str, code: int, begun: int, said: str, tmp_path: Path
) -> None:
    program = tmp_path / "python"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && echo cpu && exit\necho begun >> "$COUNT"\n{ends}\n'
    )
    program.chmod(0o755)
    script = Path(__file__).parents[2] / "benchmarks" / "first_ten_minutes.sh"
    count = tmp_path / "count"
    ended = subprocess.run(
        ["bash", script, "--dry", "--out", tmp_path, "sweeps"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "COUNT": str(count)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == code and said in ended.stdout + ended.stderr
    # Two sweeps, and their speeds.
    assert count.read_text() == "begun\n" * begun
