"""The commands as a person types them: what they print, where, and their exit codes."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typed import command, succeed, typed

from samtune.cli import COMMANDS
from samtune.record.folder import RunError
from samtune.record.record import Record

SMALL = [
    *("--set", "budget.kind=epochs", "--set", "budget.per_trial=2", "--set", "budget.trials=2"),
    *("--set", "asha.grace=1", "--set", "resources.parallel=2"),
]
HEAVY = {"torch", "torchvision", "ray", "pandas", "optuna", "scipy", "numpy"}


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
    aims = "samtune: 1\nextends: sam\nsearch: {metrics: {val_loss: min, val_acc: max}}\n"
    Path("aims.yaml").write_text(aims)
    code, _, err = typed(capsys, "run", "sgd", "aims.yaml")
    both = "{val_acc: max} and {val_loss: min, val_acc: max}"
    assert code == 2 and f"must agree on search.metrics, and these say {both}" in err
    assert "search.metric," not in err and "search.mode," not in err
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
