"""Trials of two processes in a real `samtune run`: equal to one process, a killed one too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from samtune.group import RankFailure, _behind
from samtune.outcome import of_exception
from samtune.record import Record
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
SPACE = """
samtune: 1
trainable: mortal_lab:mortal
knobs:
  lr: {grid: [0.05, 0.02]}
  rho: 0.1
task: {dataset: digits, model: small_cnn, batch_size: 48, augment: standard, train_size: 0.1}
budget: {kind: epochs, per_trial: 4}
search: {method: grid}
asha: {grace: 4, factor: 3}
resources: {cpus: 1, workers: 2, parallel: 1}
"""
OWN = {"train_s", "eval_s", "data_s", "peak_rss_mb"}


def curve(config: TrialConfig) -> dict[int, dict[str, float]]:
    """Metrics by epoch of a trial in this process."""
    reports: list[dict[str, Any]] = []
    with running(config, reports.append):
        sam(config)
    return {report["epoch"]: report["metrics"] for report in reports}


@pytest.mark.slow
def test_two_workers_are_one_and_a_killed_one_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "mortal_lab.py").write_text(MORTAL)
    (tmp_path / "mortal.yaml").write_text(SPACE)
    command = [sys.executable, "-c", "from samtune.cli import main; main()", "run", "mortal.yaml"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(tmp_path)])
    done = subprocess.run(
        [*command, "--no-confirm", "--name", "two", "--quiet"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    with Record.open(tmp_path / "runs", "two") as record:
        whole, killed = record.trials()
        assert [a["cause"] for a in record.attempts("trial = ?", whole.trial)] == ["completed"]
        causes = [a["cause"] for a in record.attempts("trial = ?", killed.trial)]
        assert causes == ["worker_died", "completed"]
        assert any("rank 1 died" in event["detail"] for event in record.events())
        found: dict[int, dict[int, dict[str, float]]] = defaultdict(dict)
        for report in record.reports():
            found[report.trial][report.epoch] = report.metrics
        for trial in (whole, killed):
            assert trial.facts["workers"] == 2
            plain = {**trial.config.to_dict(), "workers": 1, "checkpoint_dir": None}
            one = curve(TrialConfig.from_dict(plain))
            assert found[trial.trial].keys() == one.keys() == {1, 2, 3, 4}
            for epoch, metrics in one.items():
                for name in metrics.keys() - OWN:
                    assert found[trial.trial][epoch][name] == pytest.approx(
                        metrics[name], abs=1e-6
                    ), (epoch, name)


def test_of_two_errors_the_cause_is_told() -> None:
    mine = ValueError("the data set is upside down")
    assert _behind(mine, [], []) is mine
    lost = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]")
    behind = _behind(lost, [], [])
    assert isinstance(behind, RankFailure) and behind.cause == "worker_died" and behind.again
    assert of_exception(mine) == ("error", True)
    assert json.dumps(str(behind)).startswith('"the ranks lost each other')
