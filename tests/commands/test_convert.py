"""The commands that make spaces from other tuners' files."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from typed import typed

SWEEP = """
program: train.py
method: random
metric: {name: val_acc, goal: maximize}
parameters:
  lr: {min: 0.001, max: 0.1}
  noise: {distribution: log_normal, mu: 0, sigma: 1}
"""


@pytest.mark.usefixtures("in_folder")
def test_a_sweep_is_printed_as_a_space(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sweep.yaml").write_text(SWEEP)
    code, out, err = typed(capsys, "spaces", "from-wandb", "sweep.yaml")
    assert (code, err) == (0, "")
    assert out.startswith("# Not converted: parameters.noise: ")
    assert 'trainable: "program:train.py"\n' in out
    code, out, err = typed(capsys, "spaces", "from-wandb", "nowhere.yaml")
    assert (code, out) == (2, "")
    assert "samtune: nowhere.yaml cannot be read" in err


@pytest.mark.usefixtures("in_folder")
def test_a_study_is_printed_as_a_space(capsys: pytest.CaptureFixture[str]) -> None:
    study = optuna.create_study(study_name="s", storage="sqlite:///study.db")
    study.optimize(lambda trial: trial.suggest_float("lr", 0.0, 1.0), n_trials=2)
    capsys.readouterr()
    code, out, err = typed(capsys, "import", "optuna", "study.db")
    assert (code, err) == (0, "")
    assert "lr: {min: 0.0, max: 1.0}" in out
    code, out, err = typed(capsys, "import", "optuna", "study.db", "--study", "t")
    assert (code, out) == (2, "")
    assert "study.db has no study 't'" in err
