"""A program as a trainable, run for real."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from processes import runs

from samtune.trial import Budget, ReportError, Seeds, TrialConfig, running
from trainables.program import ProgramError, program

TRAIN = """
import argparse, json, os, sys
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--act")
words = parser.parse_args()
trial = json.loads(os.environ["SAMTUNE_TRIAL"])
print("starting", words.act)
print("{not json")
print(json.dumps({"lr_seen": words.lr}))
for epoch in range(3):
    print(json.dumps({"val_acc": words.lr * (epoch + 1), "loss": 0.5, "note": "text", "ok": True}))
print("on stderr", trial["seeds"]["init"], file=sys.stderr)
"""


def config(**words: Any) -> TrialConfig:
    given: dict[str, Any] = {
        "trainable": "program:train.py",
        "variant": "train",
        "base": "none",
        "knobs": {"lr": 0.25, "act": "relu"},
        "task": {},
        "budget": Budget("epochs", 3),
        "seeds": Seeds(7, 7, 7),
    }
    return TrialConfig(**{**given, **words})


def written(text: str, name: str = "train.py") -> str:
    Path(name).write_text(text)
    return name


def trained(path: str, trial: TrialConfig) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []
    with running(trial, reports.append):
        program(path)(trial)
    return reports


@pytest.mark.usefixtures("in_folder")
def test_a_program_gets_its_knobs_and_reports_lines_of_json(
    capfd: pytest.CaptureFixture[str],
) -> None:
    reports = trained(written(TRAIN), config())
    assert [report["epoch"] for report in reports] == [1, 2, 3]
    assert [report["metrics"] for report in reports] == [
        {"val_acc": 0.25 * epoch, "loss": 0.5} for epoch in (1, 2, 3)
    ]
    out, err = capfd.readouterr()
    assert out == "starting relu\n{not json\n"
    assert err == "on stderr 7\n"


@pytest.mark.usefixtures("in_folder")
def test_a_program_that_fails_says_its_last_line() -> None:
    with pytest.raises(ProgramError, match=r"train.py ended with exit code 1: ValueError: no lr"):
        trained(written("raise ValueError('no lr')"), config())
    with pytest.raises(ProgramError, match="exit code 3: it says nothing"):
        trained(written("import sys; sys.exit(3)"), config())


@pytest.mark.usefixtures("in_folder")
def test_a_program_without_the_metric_is_told_what_its_lines_hold() -> None:
    with pytest.raises(ReportError, match=r"no 'val_acc'.* hold: acc, loss; print one per epoch"):
        trained(written("""print('{"acc": 0.5, "loss": 1}')"""), config())
    with pytest.raises(ReportError, match="hold: nothing"):
        trained(written("print('done')"), config())


@pytest.mark.usefixtures("in_folder")
def test_a_program_ends_with_its_trial() -> None:
    """A stopped trial raises SystemExit in `report`; neither program nor child stays."""
    path = written(
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "open('pids', 'w').write(f'{os.getpid()} {child.pid}')\n"
        """print('{"val_acc": 0.5}')\n"""
        "time.sleep(100)\n"
    )

    def stop(report: dict[str, Any]) -> None:
        raise SystemExit

    with pytest.raises(SystemExit), running(config(), stop):
        program(path)(config())
    for pid in map(int, Path("pids").read_text().split()):
        for _ in range(500):
            if not runs(pid):
                break
            time.sleep(0.01)
        assert not runs(pid)


@pytest.mark.usefixtures("in_folder")
def test_a_program_that_cannot_be_run_is_refused() -> None:
    with pytest.raises(ProgramError, match=r"no program 'tain.py' in /"):
        program("tain.py")
    with pytest.raises(ProgramError, match=r"`chmod \+x run.sh` makes it so"):
        program(written("echo", "run.sh"))


@pytest.mark.usefixtures("in_folder")
def test_any_executable_is_a_program() -> None:
    path = written(
        """#!/bin/sh\necho "{\\"epoch\\": 4, \\"val_acc\\": $2, \\"facts\\": {\\"n\\": 3}}"\n""",
        "run.sh",
    )
    Path(path).chmod(0o755)
    (report,) = trained(path, config())
    assert (report["epoch"], report["metrics"], report["facts"]) == (
        4,
        {"val_acc": 0.25},
        {"n": 3},
    )


@pytest.mark.usefixtures("in_folder")
def test_a_program_may_report_by_samtune() -> None:
    path = written(
        "import samtune\n"
        "for epoch in (1, 2):\n"
        "    samtune.report(epoch=epoch, val_acc=0.1 * epoch, facts={'n_params': 5})\n"
    )
    reports = trained(path, config())
    assert [report["metrics"] for report in reports] == [{"val_acc": 0.1}, {"val_acc": 0.2}]
    assert reports[0]["facts"] == {"n_params": 5}
    with pytest.raises(ProgramError, match=r"ReportError: .*'val_acc'"):
        trained(written("import samtune; samtune.report(epoch=1, acc=0.5)"), config())


@pytest.mark.slow
@pytest.mark.usefixtures("in_folder")
def test_a_program_is_swept_and_confirmed() -> None:
    written(
        "import json, os, sys\n"
        "trial = json.loads(os.environ['SAMTUNE_TRIAL'])\n"
        "lr = float(sys.argv[sys.argv.index('--lr') + 1])\n"
        "for epoch in (1, 2):\n"
        "    line = {'f1': lr + trial['seeds']['init'] % 7 / 1000}\n"
        "    line |= {'test_f1': lr} if trial['test_permit'] else {}\n"
        "    print(json.dumps(line))\n"
    )
    Path("mine.yaml").write_text(
        "samtune: 1\ntrainable: program:train.py\n"
        "knobs: {lr: {min: 0.1, max: 1.0}}\nsearch: {metric: f1, mode: max, method: random}\n"
        "budget: {kind: epochs, per_trial: 2, trials: 3}\nconfirm: {seeds: 2}\n"
    )
    words = [sys.executable, "-m", "samtune", "run", "mine.yaml", "--json", "--quiet"]
    # A process of its own: a Ray of the tests may run in this one.
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["variant"], row["repeats"], row["test_openings"]) == ("train", 2, 2)
    lr = json.loads(row["config_json"])["knobs"]["lr"]
    assert row["test_f1_mean"] == pytest.approx(lr, rel=1e-8)
