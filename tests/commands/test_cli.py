"""The commands as a person types them: what they print, where, and their exit codes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from samtune.api import run as stopping
from samtune.cli import COMMANDS, main
from samtune.record import database as sweep_db
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.record.rows import Stage
from samtune.trial import Budget, Seeds, TrialConfig
from samtune.views.status import status_of, status_text

SMALL = [
    *("--set", "budget.kind=epochs", "--set", "budget.per_trial=2", "--set", "budget.trials=2"),
    *("--set", "asha.grace=1", "--set", "resources.parallel=2"),
]
HEAVY = {"torch", "torchvision", "ray", "pandas", "optuna", "scipy", "numpy"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `samtune WORDS` in this process."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    code = ended.value.code
    return code if isinstance(code, int) else int(code is not None), out, err


def succeed(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code


# A shell's `&` makes all that it starts ignore Ctrl-C, the tests and what they start included, and
# `nohup` the end of its terminal.
_MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL);"
    "from samtune.cli import main; main()"
)


def command(*words: str, **options: Any) -> subprocess.Popen[str]:
    """`samtune WORDS` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from samtune.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sorted(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in out.stdout.splitlines()[-1].split()}
    assert "click" in loaded and not HEAVY & loaded and "rich" not in loaded


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        code, out, _ = typed(capsys, name, "--help")
        assert code == 0 and "Usage: samtune" in out
    for name in ("list", "show", "check", "schema"):
        code, out, _ = typed(capsys, "spaces", name, "--help")
        assert code == 0 and f"spaces {name}" in out


MISTAKES = {
    "misspelt knob": ("samtune: 1\ntrainable: sam\nknobs:\n  roh: 0.1\n", ":4:3:", "mean 'rho'"),
    "text for a number": (
        "samtune: 1\ntrainable: sam\nknobs:\n  rho: big\n",
        ":4:8:",
        "not a number",
    ),
    "unknown trainable": ("samtune: 1\ntrainable: samm\n", ":2:12:", "mean 'sam'"),
    "knobs that exclude each other": (
        "samtune: 1\nextends: common\ntrainable: sam\nknobs:\n  momentum: 0\n  nesterov: true\n",
        ":5:3:",
        "Nesterov's step needs momentum",
    ),
    "min above max": (
        "samtune: 1\ntrainable: sam\nknobs:\n  lr: {min: 1, max: 0.1}\n",
        ":4:",
        "max",
    ),
    "empty file": ("", ":1:1:", "empty"),
    "wrong indent": (
        "samtune: 1\ntrainable: sam\nknobs:\n  lr: 0.1\n rho: 0.1\n",
        ":5:",
        "indent",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_space_ends_in_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], mistake: str
) -> None:
    content, place, words = MISTAKES[mistake]
    Path("mine.yaml").write_text(content)
    code, out, err = typed(capsys, "run", "mine.yaml")
    assert code == 2 and out == "" and "Traceback" not in err
    assert f"mine.yaml{place}" in err and words in err
    assert not Path("runs").exists()


def test_mistakes_outside_a_space(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = typed(capsys, "run", "spaces/nosuch.yaml")
    assert code == 2 and "no such file" in err and "samtune spaces list" in err
    code, _, err = typed(capsys, "status", "nosuch")
    assert code == 2 and "no run 'nosuch'" in err
    code, _, err = typed(capsys, "run", "sgd", "--name", "../up")
    assert code == 2 and "no name for a run" in err
    code, _, err = typed(capsys, "run")
    assert code == 2 and "Usage" in err
    code, _, err = typed(capsys, "runn")
    assert code == 2 and "runn" in err
    Path("file").write_text("")
    code, _, err = typed(capsys, "run", "sgd", "--runs", "file/runs")
    assert code == 5 and "cannot write" in err and "--runs" in err
    code, _, err = typed(capsys, "leaderboard", "--format", "xml", "x")
    assert code == 2 and "xml" in err
    Path("easy.yaml").write_text("samtune: 1\nextends: sam\ntask: {label_noise: 0}\n")
    code, _, err = typed(capsys, "run", "sgd", "easy.yaml")
    assert code == 2 and "must agree on task.label_noise" in err
    code, _, err = typed(capsys, "run", "sgd", "--set", "search.metric=test_acc")
    assert code == 2 and "choose on the test split" in err
    code, _, err = typed(capsys, "run", "sgd", "--set", "search.mode=min")
    assert code == 2 and "write `mode: max`" in err
    code, _, err = typed(capsys, "run", "sgd", "sgd")
    assert code == 2 and "two spaces are called 'sgd'" in err


def test_a_taken_name_stops_at_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/mine").mkdir(parents=True)
    code, _, err = typed(capsys, "run", "sgd", "--name", "mine")
    assert code == 4 and "'mine' is taken" in err and "it holds no run" in err


def _create(runs: Path, results: Any) -> None:
    try:
        Record.create(runs, "mine", [])
        results.put(0)
    except RunError as error:
        results.put(error.exit_code)


def test_of_two_runs_of_one_name_one_wins(runs: Path) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        results: Any = context.Queue()
        racers = [
            context.Process(target=_create, args=(runs / str(attempt), results)) for _ in range(4)
        ]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        assert sorted(results.get() for _ in racers) == [0, 4, 4, 4]


def test_a_dry_run_tells_the_plan_and_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    succeed(["run", "asam", "--dry-run", "--set", "eta=0"])
    out, err = capsys.readouterr()
    assert "using the shipped space" in err
    assert "24, each at most 20 see = 10 epochs (2 see per epoch)" in out
    assert "8, 16 see" in out and "--set" in out and "default of asam" in out
    assert out.count("sampled ") == 5 and out.count("default   lr=") == 1
    assert "aims  " not in out and "constraints  " not in out
    several = "search: {metrics: {val_acc: max, see: min}, constraints: {s_per_step: 0.2}}\n"
    Path("two.yaml").write_text(f"samtune: 1\nextends: asam.yaml\n{several}")
    succeed(["run", "two.yaml", "--dry-run"])
    out = capsys.readouterr().out
    assert "aims            val_acc max, see min" in out
    assert "constraints     s_per_step <= 0.2" in out
    succeed(["run", "asam", "--dry-run", "--json"])
    (plan,) = json.loads(capsys.readouterr().out)["spaces"]
    assert len(plan["first_configurations"]) == 6 and plan["budget_at_most"] == 480
    assert not Path("runs").exists()


def test_spaces_commands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed(["spaces", "list"])
    assert "asam" in capsys.readouterr().out
    succeed(["spaces", "show", "sam", "--set", "rho=0.2"])
    text = capsys.readouterr().out
    Path("copy.yaml").write_text(text)
    succeed(["spaces", "check", "copy.yaml"])
    assert "right" in capsys.readouterr().out
    succeed(["spaces", "show", "sam", "--origin"])
    assert "sam.yaml:" in capsys.readouterr().out
    succeed(["spaces", "schema"])
    assert "properties" in json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_the_whole_way_for_two_spaces(here: Path) -> None:
    """`samtune run sgd sam --confirm` in a process of its own, then the reading commands."""
    run = command("run", "sgd", "sam", "--confirm", "--seeds", "2", "--json", *SMALL)
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0, err
    rows = json.loads(out)["rows"]
    assert {row["variant"] for row in rows} == {"sgd", "sam"} and len(rows) == 2
    assert [row["repeats"] for row in rows] == [2, 2]
    assert "[4/4]" in err and "repeat 2" in err
    own = ("using the shipped space ", "run sgd-sam: ", "files: ", "report: ", "[")
    assert not [line for line in err.splitlines() if not line.startswith(own)]
    folder = Path("runs/sgd-sam")
    assert err.splitlines()[-1] == f"report: {folder.absolute() / 'report.html'}"
    names = {path.name for path in folder.iterdir()}
    assert {
        *("sweep.db", "space.sgd.yaml", "space.sam.yaml", "trials.parquet", "curves.parquet"),
        *("repeats.parquet", "leaderboard.parquet", "report.html"),
    } <= names
    more = command("confirm", "sgd-sam", "--seeds", "3", "--json")
    out, err = more.communicate(timeout=200)
    assert more.returncode == 0 and "[2/2]" in err, err
    assert [row["repeats"] for row in json.loads(out)["rows"]] == [3, 3]
    status = command("status", "sgd-sam", "--json")
    (told,) = json.loads(status.communicate(timeout=60)[0])["runs"]
    assert not told["running"] and len(told["test_openings"]) == 6
    for form in ("table", "md", "csv", "json"):
        board = command("leaderboard", "sgd-sam", "--format", form)
        text = board.communicate(timeout=60)[0]
        assert board.returncode == 0 and "sgd" in text and "sam" in text


LAB = """
import samtune

def quick(config):
    if config.knobs["lr"] > config.knobs["highest"]:
        raise RuntimeError("too steep")
    samtune.report(epoch=1, val_acc=0.5)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("highest", "code"), [(0.0, 1), (0.2, 3)])
def test_failed_trials_show_in_the_exit_code(here: Path, highest: float, code: int) -> None:
    Path("lab.py").write_text(LAB)
    Path("lab.yaml").write_text(
        "samtune: 1\ntrainable: lab:quick\nbudget: {kind: epochs, per_trial: 1}\n"
        "asha: {grace: 1}\nsearch: {method: grid}\n"
        f"knobs:\n  lr: {{grid: [0.1, 0.2, 0.3]}}\n  highest: {highest}\n"
    )
    run = command("run", "lab.yaml", "--no-confirm")
    _, err = run.communicate(timeout=120)
    assert run.returncode == code, err
    assert "RuntimeError: too steep" in err and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "send",
    [
        pytest.param(lambda pid: os.killpg(pid, signal.SIGINT), id="ctrl-c in a terminal"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGTERM), id="sigterm"),
        pytest.param(lambda pid: os.kill(pid, signal.SIGHUP), id="sighup"),
        pytest.param(lambda pid: os.killpg(pid, signal.SIGTERM), id="sigterm to all, Ray too"),
    ],
)
def test_a_signal_stops_cleanly(here: Path, send: Callable[[int], None]) -> None:
    run = command("run", "sgd", "--name", "cut", "--set", "budget.trials=500")
    seen = []
    assert run.stderr is not None
    for line in run.stderr:
        seen.append(line)
        if line.startswith("[3/"):
            break
    before = time.monotonic()
    send(run.pid)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 75, "".join(seen) + err
    assert time.monotonic() - before < 30
    assert "stopped; all of it is on record" in err and "Traceback" not in err
    with Record.open(Path("runs"), "cut") as record:
        states = {trial.state for trial in record.trials()}
        assert "running" not in states and states & {"completed", "pruned"}
        assert all(attempt["ended_at"] for attempt in record.attempts())
        assert not record.is_locked()
    # Ray's processes carry its scratch folder, which carries the driver's pid.
    deadline = time.monotonic() + 30
    while left := [
        process.info["name"]
        for process in psutil.process_iter(["name", "cmdline"])
        if f"samtune-{run.pid}-" in str(process.info["cmdline"])
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_a_stop_asks_and_opens_no_record_that_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Record.create(Path("runs"), "mine", []) as record, contextlib.ExitStack() as running:
        running.enter_context(record.lock())
        read = sweep_db.connect_to_read

        def unwritten(path: Path) -> sqlite3.Connection:
            assert not record.is_locked()
            return read(path)

        def give_in(seconds: float) -> None:
            assert (record.folder / "stop").exists()
            running.close()

        monkeypatch.setattr(sweep_db, "connect", None)
        monkeypatch.setattr(sweep_db, "connect_to_read", unwritten)
        monkeypatch.setattr(stopping.time, "sleep", give_in)
        code, out, err = typed(capsys, "stop", "mine")
    assert (code, err) == (0, "asked mine to stop\n"), err
    assert out.startswith("mine has finished") and not (record.folder / "stop").exists()


def test_a_stop_says_whether_anything_is_left(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = {"name": "sgd", "variant": "sgd", "base": "sgd", "sha256": "0" * 64}
    study |= {"space": "samtune: 1\nconfirm: {top: 2, seeds: 3}\n"}
    study |= {
        "settings": json.dumps({"mode": "max", "scheduler": "", "searched": [], "trials": 1})
    }
    budget = Budget("compute", 20)
    config = TrialConfig("t:t", "sgd", "sgd", {}, {}, budget, Seeds(1, 1, 1))

    def told() -> str:
        code, out, err = typed(capsys, "stop", "mine")
        assert code == 0 and err == ""
        return out.strip()

    def end(number: int, stage: Stage, **of: int) -> None:
        trial = record.add_trial(0, stage, number, "default", config, **of)
        attempt, _ = record.start_attempt(trial)
        message = {"epoch": 1, "used": 20.0, "metrics": {"val_acc": 0.5}, "facts": {}}
        message |= {"checkpoint": None, "checkpoint_sha256": None}
        record.add_report(trial.trial, attempt, message, "val_acc")
        record.end_trial(trial.trial, "completed")

    def status(found: dict[str, Any]) -> list[str]:
        return status_text(found).splitlines()

    left = "mine is not running; `samtune resume mine` goes on with it"
    with Record.create(Path("runs"), "mine", [study], {"confirm": True}) as record:
        record.add_event("search started")
        assert told() == left
        end(0, "search")
        record.add_event("search ended")
        assert told() == left, "it was asked to confirm"
        assert "  20 see used" in status(status_of(record))
        record.add_event("confirm started")
        end(1, "confirm", source=1, rank=0, bundle=0)
        assert told() == left
        with record.lock():
            found = status_of(record)
            assert found["seconds_left"] > 0 and found["budget_kind"] == "compute"
            assert "  40 see used, about 7:00 left" in status(found | {"seconds_left": 420})
            assert "  40 see used, time left not known yet" in status(
                found | {"seconds_left": None}
            )
        record.add_event("confirm ended")
        assert told() == "mine has finished; `samtune leaderboard mine` shows what it found"
        assert status(status_of(record))[-1] == "next: samtune leaderboard mine"
        record.set_meta("asked", {"confirm": False})
        assert "finished" in told()


@pytest.mark.slow
def test_ctrl_c_before_anything_runs_leaves_nothing(here: Path) -> None:
    run = command("run", "sgd", "--name", "early")
    assert run.stderr is not None
    assert "using the shipped space" in run.stderr.readline()
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 75, err
    assert "stopped" in err and "Traceback" not in err
    assert not Path("runs/early").exists()
