"""Trials of two processes in a real `samtune run`: equal to one process, killed or hung too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from samtune.cluster.ranks import RankFailure, _behind
from samtune.record.outcome import of_exception
from samtune.record.record import Record
from samtune.record.rows import TrialRow
from samtune.trial import TrialConfig, running
from trainables.vision import sam

MORTAL = '''
import os
import signal
from pathlib import Path

import trainables.loop
from trainables.vision import sam


class Mortal:
    """SAM whose rank 1 is killed after its second epoch, once, where lr is 0.02."""

    def __getattr__(self, name):
        return getattr(sam, name)

    def __call__(self, config):
        place, report = Path(config.checkpoint_dir, "killed"), trainables.loop.report

        def deadly(*, epoch, **words):
            report(epoch=epoch, **words)
            once = config.knobs["lr"] == 0.02 and epoch == 2 and not place.exists()
            if once and os.environ.get("RANK") == "1":
                place.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        trainables.loop.report = deadly
        try:
            sam(config)
        finally:
            trainables.loop.report = report


mortal = Mortal()
'''
HANGING = '''
import os
import time
from pathlib import Path

import trainables.loop
from trainables.vision import sam


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Hanging:
    """SAM whose rank 1 waits for ever at its second epoch, in the first attempt."""

    def __getattr__(self, name):
        return getattr(sam, name)

    def __call__(self, config):
        folder, report = Path(config.checkpoint_dir).parents[1], trainables.loop.report
        hung, rank = folder / "hung", os.environ["RANK"]
        if not hung.exists():
            (folder / f"pid-{os.getpid()}").touch()

        def late(*, epoch, **words):
            report(epoch=epoch, **words)
            if epoch == 2 and rank == "1" and not hung.exists():
                hung.touch()
                while True:
                    time.sleep(1)
            if hung.exists() and rank == "0":
                pids = [path.name[4:] for path in folder.glob("pid-*")]
                (folder / "left").write_text(" ".join(pid for pid in pids if alive(pid)))

        trainables.loop.report = late
        try:
            sam(config)
        finally:
            trainables.loop.report = report


hanging = Hanging()
'''
SPACE = """
samtune: 1
trainable: {trainable}
knobs:
  lr: {{grid: [{lr}]}}
  rho: 0.1
task: {{dataset: digits, model: small_cnn, batch_size: 48, augment: standard, train_size: 0.1}}
budget: {{kind: epochs, per_trial: 4}}
search: {{method: grid}}
asha: {{grace: 4, factor: 3}}
resources: {{cpus: 1, workers: 2, parallel: 1}}
"""
OWN = {"train_s", "eval_s", "data_s", "peak_rss_mb"}


def curve(config: TrialConfig) -> dict[int, dict[str, float]]:
    """Metrics by epoch of a trial in this process."""
    reports: list[dict[str, Any]] = []
    with running(config, reports.append):
        sam(config)
    return {report["epoch"]: report["metrics"] for report in reports}


def swept(folder: Path, name: str, code: str, lr: str, before: str = "") -> Record:
    """Return the record of a sweep by the trainable `name` of a lab with that code."""
    (folder / f"{name}_lab.py").write_text(code)
    (folder / "lab.yaml").write_text(SPACE.format(trainable=f"{name}_lab:{name}", lr=lr))
    start = f"{before}\nfrom samtune.cli import main; main()"
    command = [sys.executable, "-c", start, "run", "lab.yaml"]
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(folder)])
    done = subprocess.run(
        [*command, "--no-confirm", "--name", "two", "--quiet"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return Record.open(folder / "runs", "two")


def assert_is_one(record: Record, trial: TrialRow) -> None:
    """Assert that the reports equal, epoch by epoch, those of one undisturbed process."""
    assert trial.facts["workers"] == 2
    one = curve(
        TrialConfig.from_dict({**trial.config.to_dict(), "workers": 1, "checkpoint_dir": None})
    )
    found = {r.epoch: r.metrics for r in record.reports(trial=trial.trial)}
    assert found.keys() == one.keys() == {1, 2, 3, 4}
    for epoch, metrics in one.items():
        for name in metrics.keys() - OWN:
            assert found[epoch][name] == pytest.approx(metrics[name], abs=1e-6), (epoch, name)


@pytest.mark.slow
def test_two_workers_are_one_and_a_killed_one_costs_nothing(tmp_path: Path) -> None:
    with swept(tmp_path, "mortal", MORTAL, "0.05, 0.02") as record:
        whole, killed = record.trials()
        assert [a["cause"] for a in record.attempts(trial=whole.trial)] == ["completed"]
        causes = [a["cause"] for a in record.attempts(trial=killed.trial)]
        assert causes == ["worker_died", "completed"]
        assert any("rank 1 died" in event["detail"] for event in record.events())
        for trial in (whole, killed):
            assert_is_one(record, trial)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rank_that_hangs_is_ended_with_all_others_and_costs_nothing(tmp_path: Path) -> None:
    """Rank 1 waits for ever, and rank 0 for it in a collective: nobody dies, nobody reports."""
    # Twice the longest silence so far, a worker's start, and not ten times: on any machine that is
    # as short as can be. One that starts more slowly than before is tried again.
    hasty = "import samtune.sweep.patience as it; it._SHORTEST_S, it._MULTIPLE = 5, 2"
    with swept(tmp_path, "hanging", HANGING, "0.02", hasty) as record:
        (trial,) = record.trials()
        *stalled, last = [a["cause"] for a in record.attempts()]
        assert set(stalled) == {"stalled"} and last == "completed"
        assert any("stalled: no report for" in event["detail"] for event in record.events())
        epochs = [r.epoch for r in record.reports() if r.attempt == len(stalled)]
        assert min(epochs) >= 2, "it went on from its checkpoint"
        assert_is_one(record, trial)
        pids = list(record.folder.glob("pid-*"))
        assert len(pids) >= 2 and (record.folder / "left").read_text() == ""


def test_of_two_errors_the_cause_is_told() -> None:
    mine = ValueError("the data set is upside down")
    assert _behind(mine, [], []) is mine
    lost = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]")
    behind = _behind(lost, [], [])
    assert isinstance(behind, RankFailure) and behind.cause == "worker_died" and behind.again
    assert of_exception(mine) == ("error", True)
    assert json.dumps(str(behind)).startswith('"the ranks lost each other')
