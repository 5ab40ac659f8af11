"""The winner of a run: its space file, its script, and the choice between spaces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from problems import PAIRS
from run_two import SETTINGS, add, make_two, said
from typed import typed

from samtune.optimizers import VARIANTS, base_of
from samtune.record.record import Record
from samtune.record.rows import TrialRow
from samtune.space.search_space import SearchSpace, resolve
from samtune.trial import Budget, Seeds, TrialConfig, running
from samtune.views.best import Winner, python, winner_of


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_two(tmp_path_factory.mktemp("look") / "runs")


def test_best_is_a_space_file_that_runs(
    two: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("best.yaml").write_text(said(capsys, two, "best", "two"))
    code, out, err = typed(capsys, "run", "best.yaml", "--dry-run", "--json")
    assert code == 0, err
    (plan,) = json.loads(out)["spaces"]
    assert plan["variant"] == "sam" and plan["trials"] == 1
    (first,) = plan["first_configurations"]
    assert first["knobs"].items() >= {"lr": 0.1, "rho": 0.05, "momentum": 0.9}.items()
    assert not Path("runs").exists()
    told = json.loads(said(capsys, two, "best", "two", "--space", "sgd", "--json"))
    assert told["value"] == 0.8 and told["repeats"] == 2
    assert told["confirmed"] == pytest.approx(0.75)
    assert "0.7500 over 2 repeats" in told["space_file"]
    assert yaml.safe_load(told["space_file"])["knobs"]["lr"] == 0.1


def test_the_best_space_is_chosen_on_repeats_once_all_have_them(runs: Path, two: Path) -> None:
    folder = runs / "two"
    folder.mkdir(parents=True)
    folder.joinpath("sweep.db").write_bytes((two / "two" / "sweep.db").read_bytes())
    with Record.open(runs, "two") as record:
        assert winner_of(record).study.name == "sam"
        source = next(record.trials(study=1))
        add(record, 1, 3, [0.6, 0.65], "completed", source=source.trial, rank=0, bundle=0)
        assert winner_of(record).study.name == "sgd"


SMALL = {"dataset": "digits", "model": "small_cnn", "train_size": 130, "batch_size": 64}


def compared(
    two: Path, capsys: pytest.CaptureFixture[str], name: str, base: str | None, **words: Any
) -> str:
    """Train a trial and its script, compare their ends, and return the script."""
    variant = VARIANTS[name]
    knobs = {k: knob.default for k, knob in variant.knobs().items()}
    if base:
        knobs |= {k: knob.default for k, knob in base_of(variant, base).knobs.items()}
    task = {**SMALL, "augment": "standard", "mixup": 0.2, "warmup": 0.5, "schedule": "cosine"}
    trained = TrialConfig(
        **{"trainable": f"trainables.vision:{name}", "variant": name, "base": base or "none"},
        **{"knobs": knobs, "task": {**task, **words}, "budget": Budget("compute", 4.0)},
        seeds=Seeds(init=1, order=2, split=3),
    )
    reports: list[dict[str, Any]] = []
    with running(trained, reports.append):
        resolve(name)(trained)
    last = reports[-1]["metrics"]
    with Record.open(two, "two", read_only=True) as record:
        study, (trial, *_) = record.studies()[0], list(record.trials())
    row = TrialRow(**{**vars(trial), "config": trained, "facts": {"threads": 1}})
    code = python(Winner("two", study, row, last["val_acc"], len(reports)))
    capsys.readouterr()
    names: dict[str, Any] = {}
    exec(compile(code, "best.py", "exec"), names)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(reports) and type(names["optimizer"]) is variant
    assert shown[-1] == (
        f"epoch {len(reports)}: val_acc {last['val_acc']:.4f}, val_loss {last['val_loss']:.4f}"
    )
    assert f"the trial took {len(reports)} epochs" in code and "set_num_threads(1)" in code
    return code


@pytest.mark.parametrize(("name", "base"), PAIRS)
def test_the_script_of_a_winner_gives_what_its_trial_gave(
    two: Path, name: str, base: str | None, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    code = compared(two, capsys, name, base)
    assert 'device = torch.device("cpu")' in code, "as the trial, also where there is a GPU"


@pytest.mark.parametrize("unfreeze_at", [0.5, 1.0])
def test_the_script_freezes_and_repeats_as_its_trial_did(
    two: Path, unfreeze_at: float, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    words = {"freeze": "0, 1", "unfreeze_at": unfreeze_at, "deterministic": True}
    before = torch.get_deterministic_debug_mode()
    try:
        compared(two, capsys, "sam", "sgd", **words)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_deterministic_debug_mode(before)


def test_the_script_of_a_stranger_calls_its_trainable(
    runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "lab.py").write_text(
        "import samtune\n"
        "def quick(config):\n"
        "    for epoch in (1, 2):\n"
        "        samtune.report(epoch=epoch, val_acc=config.knobs['lr'] * epoch)\n"
    )
    text = "samtune: 1\ntrainable: lab:quick\nknobs:\n  lr: 0.1\nbudget: {kind: epochs}\n"
    text = SearchSpace.from_text(text, "lab", "lab").text
    study = {"name": "lab", "variant": "quick", "base": "none", "sha256": "0" * 64}
    with Record.create(
        runs, "one", [{**study, "space": text, "settings": json.dumps(SETTINGS)}]
    ) as record:
        code, _, err = typed(capsys, "best", "one", "--runs", str(runs))
        assert code == 1 and "samtune status one" in err
        add(record, 0, 0, [0.5], "completed")
    (tmp_path / "best.py").write_text(said(capsys, runs, "best", "one", "--python"))
    assert "best one --python" in said(capsys, runs, "best", "one")
    done = subprocess.run(
        [sys.executable, "best.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "'epoch': 2" in done.stdout and "'val_acc': 0.2" in done.stdout
