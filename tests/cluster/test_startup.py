"""Workers that start in an odd environment, and a sweep whose workers cannot start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from samtune.cluster import startup
from samtune.cluster.size import TrialSize
from samtune.cluster.start import Cluster
from samtune.cluster.startup import Startup, why_not_started
from samtune.record.record import Record

LAB = """
import samtune

def train(config):
    samtune.report(epoch=1, val_acc=0.5)
"""
SPACE = """
samtune: 1
trainable: lab:train
knobs: {lr: {grid: [0.1, 0.2]}}
budget: {kind: epochs, per_trial: 1}
search: {method: grid}
resources: {parallel: 2}
"""
# Python imports it before all else, and would only report an exception that is raised in it.
UPSIDE_DOWN = """
import sys

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "ray":
            raise ValueError("the site is upside down")

if any("default_worker" in word for word in sys.orig_argv):
    sys.meta_path.insert(0, Broken())
"""


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "lab.py").write_text(LAB)
    (folder / "lab.yaml").write_text(SPACE)
    code = "from samtune.cli import main; main()"
    words = ["run", "lab.yaml", "--name", "lab", "--no-confirm", "--json"]
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["0", "", "-1"])
def test_a_number_of_threads_that_is_none_is_no_obstacle(tmp_path: Path, threads: str) -> None:
    done = run(tmp_path, OMP_NUM_THREADS=threads)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"][0]["trials_completed"] == 2


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_sweep_with_the_reason(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(UPSIDE_DOWN)
    path = os.pathsep.join([str(site), *sys.path])
    began = time.monotonic()
    done = run(tmp_path, PYTHONPATH=path)
    assert time.monotonic() - began < 120, "on a busy machine; a minute is the aim"
    assert done.returncode == 5
    assert "no worker could start: ValueError: the site is upside down" in done.stderr
    assert json.loads(done.stdout)["exit_code"] == 5
    with Record.open(tmp_path / "runs", "lab") as record:
        assert {trial.state for trial in record.trials()} == {"cancelled"}, "resume runs them"


@pytest.fixture
def on(tmp_path: Path) -> Cluster:
    return Cluster(1, TrialSize(cpus=1, gpus=0, workers=1), tmp_path)


def test_three_failures_before_any_start_are_a_problem(on: Cluster) -> None:
    start = Startup(on)
    for _ in range(3):
        assert start.problem() is None
        start.failed("no such module")
    assert start.problem() == "no such module"
    start.succeeded()
    assert start.problem() is None, "one has started"


def test_a_slow_start_is_no_problem_for_some_minutes(
    on: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Startup(on)
    logs = on.scratch / "ray" / "session_latest" / "logs"
    logs.mkdir(parents=True)
    (logs / "worker-1.err").write_text("UserWarning: this build of torch is old\n")
    monkeypatch.setattr(startup, "_SILENT_S", 0.0)
    assert start.problem() is None
    monkeypatch.setattr(startup, "_LONGEST_S", 0.0)
    assert "none has started in" in str(start.problem())


def test_only_a_workers_own_exception_is_given_as_the_reason() -> None:
    unstarted = "Failure # 1\nModuleNotFoundError: No module named 'a\x1b'"
    assert why_not_started(unstarted).endswith(": ModuleNotFoundError: No module named 'a\\x1b'")
    for words in ("", "Failure # 1\nray.exceptions.ActorDiedError: The actor exited."):
        assert why_not_started(words).endswith("the events of the trial have more")
