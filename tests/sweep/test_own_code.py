"""A user's own model and trainable, found by every worker of run, resume and confirm."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_sweeps import record_of

from samtune.cli import main
from samtune.cluster.shipping import import_path, modules
from samtune.optimizers import base as bases
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace
from samtune.space.trainable import imported
from samtune.sweep.search_stage import SearchStage
from trainables.vision import sam

OWN = {"bases", "models", "blocks", "lab", "parts", "bare", "gone"}
MODEL = """
from torch import nn
from {package}blocks import head

def net(in_shape, classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), head(4 * in_shape[0], classes))
"""
BLOCKS = """
from torch import nn

def head(width, classes):
    return nn.Linear(width, classes)
"""
TRAINABLE = """
from trainables import vision
from {package}blocks import head

def train(config):
    vision.sgd(config)

for word in (
    *("variant", "bases", "other_bases", "knobs", "task"),
    *("references", "make_ready", "see_per_epoch"),
):
    setattr(train, word, getattr(vision.sgd, word))
"""
BASE = """
import torch

class Mine(torch.optim.SGD):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)
"""
SPACE = """
samtune: 1
trainable: {package}lab:train
base: {package}bases.Mine
knobs: {{lr: {{grid: [0.1, 0.2]}}}}
task: {{model: '{package}models:net'}}
budget: {{kind: epochs, per_trial: 2}}
search: {{method: grid}}
asha: {{grace: 2}}
resources: {{parallel: 1}}
confirm: {{top: 1, seeds: 1}}
"""


def write_code(folder: Path, package: str) -> None:
    """Write a model, a base and a trainable of the user's, in a package or beside each other."""
    place = folder / package
    place.mkdir(exist_ok=True)
    inside = f"{package}." if package else ""
    if package:
        (place / "__init__.py").write_text("")
    (place / "models.py").write_text(MODEL.format(package=inside))
    (place / "bases.py").write_text(BASE)
    (place / "blocks.py").write_text(BLOCKS)
    (place / "lab.py").write_text(TRAINABLE.format(package=inside))
    (folder / "lab.yaml").write_text(SPACE.format(package=inside))


def samtune(*words: str) -> subprocess.Popen[str]:
    # As the console script does, and other than `python -c`, -P leaves the folder off the path.
    code = "from samtune.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> None:
    _, err = process.communicate(timeout=250)
    assert process.returncode == 0, err


def killed_after_a_trial(*words: str) -> None:
    begun = samtune(*words)
    assert begun.stderr is not None
    shown = []
    while not shown or not shown[-1].startswith("[1/2]"):
        shown.append(begun.stderr.readline())
        assert shown[-1], "".join(shown)
    begun.kill()
    begun.communicate()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("package", ["", "mine"], ids=["modules", "package"])
def test_own_code_is_found_by_run_resume_and_confirm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_code(tmp_path, package)
    for stray in ("trainables", "samtune"):
        Path(stray).mkdir()
        Path(stray, "__init__.py").write_text("raise SystemExit('the stray one was imported')")
    if package:
        finished(samtune("run", "lab.yaml", "--name", "lab"))
    else:
        killed_after_a_trial("run", "lab.yaml", "--name", "lab", "--no-confirm")
        finished(samtune("resume", "lab"))
        finished(samtune("confirm", "lab"))
    with Record.open(Path("runs"), "lab") as record:
        states = Counter((trial.stage, trial.state) for trial in record.trials())
    assert states == {("search", "completed"): 2, ("confirm", "completed"): 1}


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Undo the imports of the user's code and what they add to the path."""
    before, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in OWN:
            del sys.modules[name]


@pytest.mark.parametrize("command", ["resume", "confirm"])
@pytest.mark.parametrize("module", ["lab", "models", "bases"])
def test_code_that_is_gone_stops_a_command_before_the_record_is_touched(
    command: str,
    module: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    forgotten: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_code(tmp_path, "gone")
    spaces = [SearchSpace.load("lab.yaml")]
    with record_of(tmp_path / "runs", spaces) as record:
        trial = SearchStage(record, spaces).next()
        assert trial is not None
        record.start_attempt(trial)
        name = record.name
    before = dump(name)
    for loaded in [each for each in sys.modules if each.partition(".")[0] == "gone"]:
        del sys.modules[loaded]
    # As in a command of its own, which has not imported the base before.
    bases._by_path.cache_clear()
    (tmp_path / "gone" / f"{module}.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(SystemExit) as caught:
        main([command, name])
    assert caught.value.code == 2
    assert f"no module 'gone.{module}'" in capsys.readouterr().err
    assert dump(name) == before


def dump(name: str) -> list[str]:
    with Record.open(Path("runs"), name) as record:
        return list(record._db.iterdump())


def test_the_import_path_of_workers_ends_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/somewhere", str(tmp_path), "/somewhere"])
    assert import_path() == ["/somewhere", str(tmp_path)]


def test_own_code_is_sent_with_what_it_imports_from_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    monkeypatch.chdir(tmp_path)
    write_code(tmp_path, "")
    write_code(tmp_path, "parts")
    (tmp_path / "other.py").write_text("")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "lab.py").write_text("")
    sys.path.append(str(tmp_path))
    for name in ("models", "parts.lab", "bare.lab"):
        importlib.import_module(name)
    sent = modules(["trainables.vision:sgd", "models:net"])
    ours = Path(import_file("samtune")).parent
    assert sent[:2] == [str(ours), str(ours.with_name("trainables"))]
    assert {Path(path).name for path in sent[2:]} == {"models.py", "blocks.py", "parts"}
    with pytest.raises(RunError, match="cannot send 'bare'"):
        modules(["bare.lab:train"])


@pytest.mark.parametrize(
    ("base", "own"),
    [("sgd", []), ("torch.optim.NAdam", []), ("lab.bases.Mine", ["lab.bases:Mine"])],
)
def test_the_references_of_a_space_are_its_own_model_and_base(base: str, own: list[str]) -> None:
    assert sam.references({"model": "small_cnn"}, base) == own
    assert sam.references({"model": "models:net"}, base) == ["models:net", *own]


def test_a_base_of_the_current_folder_is_found_and_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    monkeypatch.chdir(tmp_path)
    write_code(tmp_path, "")
    words = {"trainable": "sam", "base": "bases.Mine", "knobs": {"lr": 0.1, "rho": 0.05}}
    space = SearchSpace.from_document(words, "mine")
    own = imported(space.trainable, space.base, space.task)
    assert own == ["trainables.vision:sam", "bases:Mine"]
    assert str(tmp_path / "bases.py") in modules(own)


def import_file(name: str) -> str:
    return str(importlib.import_module(name).__file__)
