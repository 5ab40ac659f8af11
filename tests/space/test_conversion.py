"""Sweeps of W&B as spaces: what converts loads as a space, and what does not is named."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from samtune.space.conversion import from_wandb
from samtune.space.errors import SpaceError
from samtune.space.search_space import Choice, Fixed, Range, SearchSpace

SWEEP = """
program: train.py
name: my sweep
method: bayes
run_cap: 40
metric: {name: val/f1, goal: maximize}
early_terminate: {type: hyperband, min_iter: 3, eta: 2, s: 2}
command: [python, train.py]
parameters:
  epochs: {value: 5}
  lr: {distribution: log_uniform_values, min: 1.0e-4, max: 0.1}
  decay: {distribution: log_uniform, min: -9.0, max: -2.0}
  rho: {min: 0.0, max: 0.5}
  layers: {min: 1, max: 4}
  width: {distribution: q_uniform, q: 16, min: 32, max: 128}
  act: {values: [relu, tanh]}
  noise: {distribution: normal, mu: 0, sigma: 1}
  weighted: {values: [1, 2], probabilities: [0.9, 0.1]}
  opt: {parameters: {lr: {value: 1}}}
  a.b: {value: 1}
  shapes: {values: [[1, 2], [3]]}
  spread: {distribution: log_normal, mu: 0, sigma: 1}
  units: {distribution: q_log_uniform_values, q: 8, min: 8, max: 64}
  open: {distribution: uniform, min: 1}
"""


def test_a_sweep_converts_to_a_space_that_loads() -> None:
    found = from_wandb(SWEEP)
    space = SearchSpace.from_text(found.text, "sweep", "sweep.yaml")
    assert space.trainable == "program:train.py"
    assert space.knobs["epochs"] == Fixed(5)
    lr, decay, rho = (space.knobs[name] for name in ("lr", "decay", "rho"))
    assert isinstance(lr, Range) and (lr.low, lr.high, lr.scale) == (1e-4, 0.1, "log")
    assert isinstance(decay, Range) and decay.low == pytest.approx(math.exp(-9))
    assert isinstance(rho, Range) and (rho.low, rho.high, rho.type) == (0, 0.5, "float")
    layers, width, act = (space.knobs[name] for name in ("layers", "width", "act"))
    assert isinstance(layers, Range) and (layers.low, layers.high, layers.type) == (1, 4, "int")
    assert isinstance(width, Range) and (width.step, width.type) == (16, "int")
    assert isinstance(act, Choice) and act.values == ("relu", "tanh")
    noise, units = space.knobs["noise"], space.knobs["units"]
    assert isinstance(noise, Range) and (noise.mean, noise.sd, noise.low) == (0, 1, -4)
    assert isinstance(units, Range) and (units.step, units.scale, units.type) == (8, "log", "int")
    assert (space.search.method, space.search.metric, space.search.mode) == (
        "tpe",
        "val_f1",
        "max",
    )
    assert (space.budget.kind, space.budget.trials) == ("epochs", 40)
    assert (space.asha.grace, space.asha.factor) == (3, 2)


def test_all_that_does_not_convert_is_named() -> None:
    left = "\n".join(from_wandb(SWEEP).left_out)
    for sentence in (
        "metric 'val/f1' is no name; report it as val_f1",
        "parameters.spread: the distribution 'log_normal' has no counterpart",
        "parameters.weighted: probabilities of choices",
        "parameters.opt: nested parameters",
        "parameters.a.b: 'a.b' is no name for a knob",
        "parameters.shapes: [1, 2] is not a number, a text, true or false",
        "parameters.open: max must be numbers",
        "early_terminate.s: samtune has one bracket",
        "command: samtune has no such word",
        "budget: the sweep has none; 10 epochs per trial are assumed",
    ):
        assert sentence in left
    assert "name:" not in left
    assert all(
        line.startswith("# Not converted: ") for line in from_wandb(SWEEP).text.splitlines()[:5]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "the sweep is not YAML"),
        ("method: grid", "the sweep has no `parameters`"),
        ("[1, 2]", "the sweep has no `parameters`"),
        ("parameters: [lr]", "the sweep has no `parameters`"),
    ],
)
def test_what_is_no_sweep_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        from_wandb(text)


def test_a_hostile_sweep_runs_nothing(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="is not YAML"):
        from_wandb(f"parameters: !!python/object/apply:os.mkdir [{tmp_path / 'x'}]")
    assert not (tmp_path / "x").exists()
