"""Commands on runs that were killed, stopped or changed."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typed import command

from samtune.cli import main
from samtune.record import provenance, tables
from samtune.record.provenance import code_hashes
from samtune.record.record import Record

LAB = """
import os
import time
import samtune

def steady(config):
    place = os.path.join(config.checkpoint_dir, "epoch")
    done = int(open(place).read()) if os.path.exists(place) else 0
    for epoch in range(max(done, 1), 7):
        if epoch > done:
            time.sleep(0.2)
            with open(place + ".new", "w") as file:
                file.write(str(epoch))
            os.replace(place + ".new", place)
        value = config.knobs["lr"] * (1 + epoch / 10 + config.seeds.init % 7 / 100)
        test = {"test_acc": value, "n_test": 100} if epoch == 6 and config.test_permit else {}
        samtune.report(epoch=epoch, val_acc=value, see=epoch, **test)
"""
LAB_SPACE = """
samtune: 1
trainable: lab:steady
knobs:
  lr: {min: 0.01, max: 0.5, default: 0.05}
budget: {kind: epochs, per_trial: 6, trials: 9}
asha: {grace: 2, factor: 3}
resources: {parallel: 1}
confirm: {top: 1, seeds: 3}
"""
# Columns that a kill may change: times, attempts, and the memory of a process.
CHANGES = {
    *("started_at", "ended_at", "wall_s", "train_s", "eval_s", "data_s", "peak_rss_mb"),
    *("peak_gpu_mb", "attempts", "epochs_repeated", "ckpt_sha256"),
    *("search_wall_s", "train_s_per_run", "peak_mem_mb"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("lab.py").write_text(LAB)
    Path("lab.yaml").write_text(LAB_SPACE)
    return tmp_path


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=200)
    return process.returncode, err


def cut(process: subprocess.Popen[str], draw: random.Random) -> bool:
    """Kill the process at some moment of its work. Return False if it ended before."""
    assert process.stderr is not None
    line = next((x for x in process.stderr if x.startswith("[")), None)
    for _ in range(draw.randrange(4)):
        line = line and process.stderr.readline()
    time.sleep(draw.random() / 4)
    process.kill()
    process.communicate()
    return bool(line)


def tables_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [
            {column: value for column, value in row.items() if column not in CHANGES}
            for row in tables.read(folder / f"{name}.parquet", name).to_pylist()
        ]
        for name in ("trials", "leaderboard")
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_ends_in_the_tables_of_one_that_never_was(here: Path) -> None:
    code, err = ended(command("run", "lab.yaml", "--name", "lab", "--runs", "whole"))
    assert code == 0, err
    draw, kills = random.Random(5), 0
    words = ["run", "lab.yaml", "--name", "lab", "--runs", "cut"]
    while kills < 2 and cut(command(*words), draw):
        kills += 1
        words = ["resume", "lab", "--runs", "cut"]
    code, err = ended(command(*words))
    assert code == 0 and kills == 2, err
    assert tables_of(Path("cut/lab")) == tables_of(Path("whole/lab"))
    with Record.open(Path("cut"), "lab") as record:
        epochs = Counter((r.trial, r.epoch) for r in record.reports())
        assert set(epochs.values()) == {1}
        assert Counter(a["cause"] for a in record.attempts())["killed"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_is_stopped_from_elsewhere_and_gone_on_with_by_its_name(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def typed(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            main(words)
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out + err

    run = ["run", "lab.yaml", "--name", "lab"]
    process = command(*run)
    assert process.stderr is not None
    assert any(line.startswith("[2/") for line in process.stderr)
    assert typed(*run)[0] == 4, "two may not write one run"
    assert typed("stop", "lab") == (
        0,
        "lab has stopped; `samtune resume lab` goes on with it\nasked lab to stop\n",
    )
    code, err = ended(process)
    assert code == 75 and "`samtune resume lab` continues" in err, err
    code, told = typed("stop", "lab")
    assert code == 0 and "lab is not running" in told
    code, told = typed(*run, "--set", "lr.max=0.4")
    assert code == 4 and "samtune resume lab" in told

    with Record.open(Path("runs"), "lab") as record:
        began = record.meta("versions")
        record.set_meta("versions", began | {"optuna": "4.0.0"})
    code, told = typed("resume", "lab")
    assert code == 2 and "optuna was 4.0.0" in told and "--accept-version-change" in told
    with Record.open(Path("runs"), "lab") as record:
        record.set_meta("versions", began)
    Path("lab.py").write_text(LAB.replace("% 7 / 100", "% 7 / 101"))
    for words in (["resume", "lab"], run):
        code, told = typed(*words)
        assert code == 2 and "code of lab was " in told and "optuna" not in told
    # Only the frozen copy counts, even if the file has changed or is gone.
    Path("lab.yaml").rename("moved.yaml")
    code, err = ended(command("resume", "lab", "--accept-version-change"))
    assert code == 0, err
    with Record.open(Path("runs"), "lab") as record:
        states = Counter(trial.state for trial in record.trials())
        assert sum(states.values()) == 12 and states["completed"] >= 4
        assert not states["cancelled"] and not states["running"]
        kinds = [event["kind"] for event in record.events()]
        assert "version change accepted" in kinds and "resumed" in kinds
    code, told = typed("resume", "lab")
    assert code == 0 and "nothing is left to do in lab" in told
    assert "lab has finished" in typed("stop", "lab")[1]
    Path("moved.yaml").rename("lab.yaml")
    code, told = typed(*run)
    assert code == 4 and "'lab' is taken" in told


def test_code_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "my_lab.py"
    file.write_text("def mine(config): ...\n")
    ours = code_hashes(["sam"])
    first = code_hashes(["sam", "my_lab:mine"])
    assert {*first} == {"code of samtune", "code of my_lab"} and ours.items() < first.items()
    file.write_text("def mine(config): return\n")
    second = code_hashes(["my_lab:mine"])
    assert second["code of my_lab"] != first["code of my_lab"] and ours.items() < second.items()
    sampler = tmp_path / "my_search.py"
    sampler.write_text("def drawn(seed): ...\n")
    searched = code_hashes(["sam"], ["tpe", "my_search:drawn"])
    assert {*searched} == {*ours, "code of my_search"}
    sampler.write_text("def drawn(seed): return\n")
    assert code_hashes(["sam"], ["my_search:drawn"]) != searched
    home = tmp_path / "samtune"
    (home / "optimizers").mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(home / "provenance.py"))
    assert code_hashes([]) != ours
