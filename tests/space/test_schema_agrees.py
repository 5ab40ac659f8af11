"""The JSON Schema for editors and samtune's own check agree on what a space file may say."""

from __future__ import annotations

import jsonschema
import pytest
from toy_space import load, messages

from samtune.space import strict_yaml
from samtune.space.search_space import space_schema

pytestmark = pytest.mark.usefixtures("toy_trainable", "in_folder")

HEAD = "samtune: 1\ntrainable: labtrainables.mod:plain\n"
VALIDATOR = jsonschema.Draft202012Validator(space_schema())

RIGHT = [
    "knobs: {a: {choice: [1]}, b: {grid: [x, y]}, c: {min: 0.0, max: 1.0}}",
    "knobs: {a: {choice: [true, 1]}}",
    "knobs: {a: {choice: [1, '1']}}",
    "knobs: {a: {mean: 0.0, sd: 1.0, min: -1}}",
    "knobs: {a: {min: 1, max: 9, step: 2, scale: log, default: 3}}",
    "knobs: {a: {choice: [1, 2]}, b: {choice: [3], when: {a: [1]}}}",
    "knobs: {a: {choice: [1, 2]}, b: {choice: [3], when: {a: 1}}}",
    "points: [{a: 1, b: 2}, {a: 2, b: 1}]",
    "task: {anything: 1, split_seed: 0}",
    "resources: {parallel: 1, stall_after: 0.5, gpus: 0.5, retries: 0}",
    "resources: {parallel: auto, stall_after: auto, gpus: 2}",
    "search: {method: tpe, sobol: 0, seed: 0, first: [default], metric: val_f1}",
    "search: {first: []}",
    "asha: {grace: auto, factor: 1.5, tolerance: 0, audit: 1}",
    "asha: {grace: 0.5, until: 0.5, rescue: 2}",
    "select: {top: 1, seeds: 1, with_search: true}",
    "budget: {kind: epochs, per_trial: 0.5, trials: 1}",
    "confirm: {top: 1, seeds: 1}",
]

WRONG = [
    "knobs: {a: {choice: []}}",
    "knobs: {a: {grid: []}}",
    "knobs: {a: {choice: [1, 1]}}",
    "knobs: {a: {grid: [x, y, x]}}",
    "knobs: {a: {choice: 1}}",
    "knobs: {a: {choice: [[1]]}}",
    "knobs: {a: {choice: [null]}}",
    "knobs: {a: {choice: [1], grid: [1]}}",
    "knobs: {a.b: 1}",
    "knobs: {a-b: 1}",
    "knobs: {1a: {choice: [1]}}",
    "knobs: {a: [1, 2]}",
    "knobs: {a: {min: 0.0, max: 1.0, default: x}}",
    "knobs: {a: {min: 0.0, max: 1.0, default: true}}",
    "knobs: {a: {min: x, max: 1.0}}",
    "knobs: {a: {min: 0.0, max: 1.0, step: 0}}",
    "knobs: {a: {min: 0.0, max: 1.0, scale: lin}}",
    "knobs: {a: {mean: 0.0, sd: 0}}",
    "knobs: {a: {choice: [1]}, b: {choice: [3], when: {a: []}}}",
    "knobs: {a: {choice: [1]}, b: {choice: [3], when: {a.b: 1}}}",
    "points: []",
    "points: [{a: 1}, {a: 1}]",
    "points: [{a.b: 1}]",
    "points: {a: 1}",
    "task: {a.b: 1}",
    "task: {split_seed: -1}",
    "task: {split_seed: x}",
    "task: {a: [[1]]}",
    "resources: {parallel: 0}",
    "resources: {parallel: 1.5}",
    "resources: {parallel: many}",
    "resources: {parallel: true}",
    "resources: {stall_after: 0}",
    "resources: {stall_after: never}",
    "resources: {gpus: 1.5}",
    "resources: {gpus: -1}",
    "resources: {cpus: 0}",
    "resources: {workers: 0}",
    "resources: {retries: -1}",
    "search: {method: bayes}",
    "search: {seed: -1}",
    "search: {seed: 4294967296}",
    "search: {sobol: -1}",
    "search: {first: [best]}",
    "search: {first: default}",
    "search: {metric: test_acc}",
    "asha: {grace: 0}",
    "asha: {grace: soon}",
    "asha: {factor: 1}",
    "asha: {audit: 2}",
    "asha: {rescue: -1}",
    "asha: {until: 0}",
    "select: {with_search: 1}",
    "budget: {trials: 0}",
    "budget: {per_trial: 0}",
    "budget: {kind: epoch}",
    "confirm: {seeds: 0}",
    "confrim: {seeds: 1}",
    "samtune: 2",
]


@pytest.mark.parametrize("body", RIGHT)
def test_both_accept(body: str) -> None:
    load(f"{body}\n", head=HEAD)
    VALIDATOR.validate(strict_yaml.load(f"{HEAD}{body}".encode(), "f").plain())


@pytest.mark.parametrize("body", WRONG)
def test_both_refuse(body: str) -> None:
    head = HEAD.replace("samtune: 1\n", "") if body.startswith("samtune") else HEAD
    assert messages(f"{body}\n", head=head)
    plain = strict_yaml.load(f"{head}{body}".encode(), "f").plain()
    assert not VALIDATOR.is_valid(plain), "the schema accepts it"
