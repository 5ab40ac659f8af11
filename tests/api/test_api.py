"""The Python API: the same engine as the command line's, from a script or a notebook."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import samtune
from samtune.cli import main
from samtune.record.record import Record
from trainables.device import DeviceError, device_for

pytestmark = pytest.mark.slow

TINY = {"budget.kind": "epochs", "budget.per_trial": 1, "budget.trials": 2, "asha.grace": 1}
BUDGET = {"kind": "epochs", "per_trial": 3, "trials": 4}


def parabola(config: samtune.TrialConfig) -> None:
    """Report how near `x` is to 0.3, better with each epoch."""
    x = float(config.knobs["x"])
    for epoch in (1, 2, 3):
        samtune.report(epoch=epoch, f1=1 - (x - 0.3) ** 2 - 0.1 / epoch)


def space(**words: Any) -> samtune.Space:
    given = {"trainable": parabola, "knobs": {"x": {"min": 0.0, "max": 1.0}}, "metric": "f1"}
    return samtune.Space(**{**given, "mode": "max", "budget": BUDGET, **words})


def test_a_function_made_in_a_function_is_searched_and_read(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = 0.7

    def local(config: samtune.TrialConfig) -> None:
        samtune.report(epoch=1, f1=-abs(float(config.knobs["x"]) - target))

    grid = {"x": {"grid": [0.1, 0.7, 0.9]}}
    run = samtune.run(
        space(trainable=local, knobs=grid, search={"method": "grid"}),
        name="mine",
        confirm=False,
        progress=False,
    )
    assert run.exit_code == 0 and run.name == "mine"
    assert run.folder == here / "runs" / "mine"
    best = run.best()
    assert best.knobs == {"x": 0.7} and best.value == 0.0 and best.space == "local"
    assert run.best("local") == best
    assert set(run.trials["state"]) == {"completed"} and len(run.trials) == 3
    assert len(run.curves) == 3 and len(run.repeats) == 0
    assert list(run.leaderboard["space"]) == ["local"]
    assert run.status()["finished"] and not run.is_running() and run.stop()
    assert "[" not in capsys.readouterr().err, "progress=False shows no progress"
    with Record.open(Path("runs"), "mine", read_only=True) as record:
        (event,) = [event for event in record.events() if event["kind"] == "by value"]
    assert "resumed only where it is defined" in event["detail"]


def test_python_and_the_command_line_answer_alike(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = samtune.run("sgd", name="first", set=TINY, confirm=False, progress=False)
    other = samtune.run(
        {"extends": "sgd", "trainable": "sgd"},
        name="other",
        set=[f"{word}={value}" for word, value in TINY.items()],
        confirm=False,
        progress=False,
    )
    board = samtune.leaderboard(first, "runs/other")
    assert list(board["run"]) == ["first", "other"]
    assert board["best_val_acc"].nunique() == 1, "the same space gives the same result"
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["best", "first", "--json"])
    assert not ended.value.code
    told = json.loads(capsys.readouterr().out)
    best = samtune.load("runs/first").best()
    assert told["knobs"] == best.knobs and told["space_file"] == best.space_file
    assert samtune.load("first").folder == samtune.load(Path("runs/first")).folder
    assert other.confirm(seeds=1, progress=False).leaderboard["repeats"].tolist() == [1]


@pytest.mark.parametrize(
    ("call", "words", "code"),
    [
        (lambda: samtune.run("samm"), "did you mean 'sam'", 2),
        (lambda: samtune.run({"trainable": "sam", "knobs": {"roh": 1}}), "mean 'rho'", 2),
        (lambda: samtune.run("sgd", set={"lr.maxx": 1}), "nothing that can be set", 2),
        (lambda: samtune.run("sgd", name="../up"), "no name for a run", 2),
        (lambda: samtune.load("nosuch"), "no run 'nosuch'", 2),
        (lambda: samtune.load("runs/nosuch").best(), "no run 'nosuch'", 2),
        (lambda: samtune.run(space(budget={"kind": "see"})), "budget.kind", 2),
    ],
)
def test_errors_are_sentences_and_never_end_the_interpreter(
    here: Path, call: Any, words: str, code: int
) -> None:
    with pytest.raises(samtune.SamtuneError, match=words) as refused:
        call()
    assert refused.value.exit_code == code and refused.value.messages


def test_a_gpu_that_torch_cannot_use_is_an_error_before_the_sweep(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU defect 1. Otherwise the trials would run on the CPU, and nobody would notice."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(samtune.SamtuneError, match="torch cannot use a GPU here") as refused:
        samtune.run("sgd", name="gpu", set={"resources.gpus": 0.5}, progress=False)
    assert refused.value.exit_code == 5
    assert not Path("runs/gpu").exists()
    with pytest.raises(DeviceError, match=r"torch .* or --set resources\.gpus=0"):
        device_for(0.5)
    assert device_for(0).type == "cpu"


def test_a_missing_compiler_is_an_error_before_the_sweep(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise each trial would fail with it after Ray has started."""
    monkeypatch.setenv("PATH", str(here))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(samtune.SamtuneError, match=r"sgd: no trial could begin: .* install g\+\+"):
        samtune.run("sgd", name="slow", set={"task.compile": True}, progress=False)
    assert not Path("runs/slow").exists()


SCRIPT = """
import sys, time
from pathlib import Path
import samtune

GO = Path(__file__).resolve().with_name("go")

def slow(config):
    for epoch in range(1, 61):
        while epoch == 30 and not GO.exists():
            time.sleep(0.05)
        samtune.report(epoch=epoch, f1=float(epoch))

space = samtune.Space(trainable=slow, knobs={"x": {"min": 0.0, "max": 1.0}}, metric="f1",
                      mode="max", budget={"kind": "epochs", "per_trial": 60, "trials": 2})
try:
    run = samtune.run(space, name="cut", confirm=False)
    print("ended", run.exit_code, len(run.trials))
except KeyboardInterrupt as stopped:
    print(f"{stopped}|{stopped.run.status()['finished']}")
"""


@pytest.mark.timeout(600)
def test_ctrl_c_leaves_a_script_s_run_resumable_there_and_nowhere_else(here: Path) -> None:
    Path("script.py").write_text(SCRIPT)
    begin = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    start = [sys.executable, "-c", f"{begin} import runpy; runpy.run_path('script.py', "]
    start[-1] += "run_name='__main__')"
    script = subprocess.Popen(
        start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while not (reports := _reports(here)):
        assert time.monotonic() < deadline and script.poll() is None
        time.sleep(0.2)
    os.kill(script.pid, signal.SIGINT)
    out, err = script.communicate(timeout=60)
    assert script.returncode == 0, err
    assert "SIGINT stopped cut; all of it is on record" in out and out.strip().endswith("|False")

    samtune_command = [sys.executable, "-m", "samtune", "resume", "cut"]
    elsewhere = subprocess.run(samtune_command, capture_output=True, text=True, check=False)
    assert elsewhere.returncode == 2
    assert "was defined in a notebook or a script" in elsewhere.stderr, elsewhere.stderr

    Path("go").touch()
    again = subprocess.run(start, capture_output=True, text=True, timeout=240, check=False)
    assert again.stdout.strip() == "ended 0 2", again.stderr
    assert _reports(here) > reports


def _reports(here: Path) -> int:
    if not (here / "runs/cut/sweep.db").is_file():
        return 0
    with Record.open(here / "runs", "cut", read_only=True) as record:
        return sum(1 for _ in record.reports())


@pytest.mark.timeout(600)
def test_a_run_is_read_stopped_and_resumed_from_another_process(here: Path) -> None:
    Path("slowly.py").write_text(SCRIPT.partition("space =")[0])
    words = {"trainable": "slowly:slow", "knobs": {"x": 0.1}, "search": {"metric": "f1"}}
    code = (
        f"import samtune; run = samtune.run({words!r}, name='on', confirm=False, progress=False,"
        " set={'budget.kind': 'epochs', 'budget.per_trial': 60, 'budget.trials': 1})\n"
        "print(run.exit_code)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while not Path("runs/on/sweep.db").is_file() or not len(samtune.load("runs/on").curves):
        assert time.monotonic() < deadline and other.poll() is None
        time.sleep(0.2)
    run = samtune.load("runs/on")
    assert run.is_running() and run.status()["running"]
    assert run.stop(timeout=60)
    assert other.communicate(timeout=60)[0].strip() == "75"
    assert not run.status()["finished"]
    Path("go").touch()
    resumed = run.resume(progress=False)
    assert resumed.exit_code == 0 and run.status()["finished"]
    assert run.curves["epoch"].max() == 60
