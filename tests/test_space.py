"""Space files: what is read, what is refused and in which words, and the frozen copy."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import samtune
from samtune import strict_yaml
from samtune.optimizers import VARIANTS
from samtune.plan import plan, plan_text
from samtune.space import (
    Choice,
    Fixed,
    Grid,
    Range,
    SearchSpace,
    SpaceError,
    resolve,
    shipped,
    space_schema,
)
from samtune.strict_yaml import StrictYamlError
from trainables.models import check_name

HEAD = "samtune: 1\ntrainable: labtrainables.mod:toy\n"

STUB = """
from dataclasses import dataclass
from types import SimpleNamespace


@dataclass(frozen=True)
class Knob:
    name: str
    kind: type
    default: object
    low: float | None = None
    high: float | None = None
    safe: tuple | None = None
    choices: tuple | None = None
    source: str = "Toy et al. 2020"

    def check(self, value):
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} is {value!r}; it must be {' or '.join(self.choices)}")
        if self.kind is bool and not isinstance(value, bool):
            raise ValueError(f"{self.name} is {value!r}; it must be true or false")
        if self.kind is int and not isinstance(value, int):
            raise ValueError(f"{self.name} is {value!r}; it must be a whole number")
        if self.low is not None and value < self.low:
            raise ValueError(f"{self.name} is {value!r}; it must be at least {self.low:g}")
        return float(value) if self.kind is float else value


def table(*knobs):
    return {knob.name: knob for knob in knobs}


LR = Knob("lr", float, 0.1, low=0, safe=(1e-4, 1))
OWN = {
    "toy": table(
        Knob("rho", float, 0.05, low=0, safe=(0.01, 0.5)),
        Knob("m", int, 4, low=1),
        Knob("schedule", str, "constant", choices=("constant", "linear")),
        Knob("end", float, 0.01, low=0),
        Knob("late", float, 0.5),
    ),
    "other": table(Knob("gamma_kept", float, 0.5)),
}
BASE = {
    "sgd": table(LR, Knob("momentum", float, 0.9)),
    "adamw": table(LR, Knob("beta1", float, 0.9)),
}


class Trainable:
    bases = ("sgd", "adamw")
    task = table(
        Knob("dataset", str, "digits", choices=("digits", "cifar10")),
        Knob("model", str, "small_cnn", choices=("small_cnn",)),
        Knob("label_noise", float, 0.0, low=0),
        Knob("batch_size", int, 64, low=1),
    )

    def __init__(self, variant):
        self.variant = variant

    def knobs(self, base):
        return {**OWN[self.variant], **BASE[base]}

    def __call__(self, config):
        raise NotImplementedError


toy = Trainable("toy")
other = Trainable("other")


def plain(config):
    raise NotImplementedError
"""


@pytest.fixture(scope="module", autouse=True)
def stub(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("path")
    package = folder / "labtrainables"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mod.py").write_text(STUB)
    sys.path.insert(0, str(folder))
    yield package
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.startswith("labtrainables")]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(body: str, *overrides: str, name: str = "lab.yaml", head: str = HEAD) -> SearchSpace:
    Path(name).write_text(head + body)
    return SearchSpace.load(name, overrides)


def messages(body: str, *overrides: str, head: str = HEAD) -> list[str]:
    with pytest.raises(SpaceError) as caught:
        load(body, *overrides, head=head)
    return caught.value.messages


# What a file says


def test_the_shape_of_a_knob_names_its_kind() -> None:
    space = load(
        "knobs:\n"
        "  lr: {min: 1e-3, max: 0.5, scale: log, default: 0.05}\n"
        "  rho: {choice: [0.05, 0.1], default: 0.1}\n"
        "  m: {grid: [1, 2]}\n"
        "  momentum: 0\n"
    )
    assert space.knobs["lr"] == Range(0.001, 0.5, "log", None, "float", 0.05)
    assert space.knobs["rho"] == Choice((0.05, 0.1), 0.1)
    assert space.knobs["m"] == Grid((1, 2), 1)
    assert space.knobs["momentum"] == Fixed(0.0)
    assert isinstance(space.knobs["momentum"].value, float)
    assert (space.name, space.variant, space.base) == ("lab", "toy", "sgd")
    assert space.trainable == "labtrainables.mod:toy"
    assert space.warnings == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("on", "on"),
        ("no", "no"),
        ("012", 12),
        (".5", 0.5),
        ("0x10", 16),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("true", True),
        ("'1'", "1"),
        ("~", None),
    ],
)
def test_words_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    read = strict_yaml.load(f"a: {text}\r\n".encode(), "f.yaml").plain()["a"]
    assert read == value
    assert type(read) is type(value)


def test_a_default_is_the_knobs_own_where_it_fits_and_the_middle_otherwise() -> None:
    space = load(
        "knobs:\n"
        "  lr: {min: 0.01, max: 1, scale: log}\n"
        "  rho: {min: 0.1, max: 10, scale: log}\n"
        "  momentum: {min: 0, max: 0.8}\n"
        "  m: {min: 8, max: 16, step: 4}\n"
    )
    default = space.default()
    assert default["lr"] == 0.1
    assert default["rho"] == pytest.approx(1)
    assert default["momentum"] == pytest.approx(0.4)
    assert default["m"] == 12 and type(default["m"]) is int
    assert space.knobs["m"] == Range(8, 16, "linear", 4, "int", 12)
    assert space.origin["knobs.lr.default"] == "default of toy"
    assert space.origin["knobs.rho.default"] == "middle of the range"


def test_what_the_trainable_declares_and_the_file_leaves_out_is_filled_in() -> None:
    space = load("knobs: {lr: 0.1}\n", "base=adamw")
    assert space.knobs["rho"] == Fixed(0.05)
    assert space.knobs["beta1"] == Fixed(0.9)
    assert "momentum" not in space.knobs
    filled = {"dataset": "digits", "model": "small_cnn", "label_noise": 0.0, "batch_size": 64}
    assert space.task == {**filled, "split_seed": 1}
    assert space.origin["knobs.rho"] == "default of toy"
    assert space.origin["task.dataset"] == "default of toy"
    assert space.origin["knobs.lr"] == "lab.yaml:3"
    assert space.origin["base"] == "--set"
    assert space.origin["asha.grace"] == "default"


def test_outside_the_sensible_range_is_a_warning_that_names_its_source() -> None:
    space = load("knobs:\n  rho: {min: 0.05, max: 50, scale: log}\n")
    assert space.warnings == [
        "lab.yaml:4:25: rho: 50 is outside 0.01 to 0.5, "
        "the range worth searching (Toy et al. 2020)"
    ]


def test_a_plain_function_is_allowed_with_one_warning() -> None:
    space = load("knobs: {anything: 3}\n", head="samtune: 1\ntrainable: labtrainables.mod:plain\n")
    assert space.knobs == {"anything": Fixed(3)}
    assert (space.variant, space.base) == ("plain", "none")
    assert space.warnings == [
        "lab.yaml:2:12: labtrainables.mod:plain declares no knobs, so these are not checked"
    ]


# Conditions and tied values

SCHEDULED = (
    "knobs:\n"
    "  schedule: {choice: [constant, linear]}\n"
    "  end: {min: 0.01, max: 1, when: {schedule: linear}}\n"
)


def test_a_conditional_knob_is_active_only_where_its_condition_holds() -> None:
    space = load(SCHEDULED)
    values = {"schedule": "linear", "end": 0.5}
    assert space.active(values) == values
    assert space.active({**values, "schedule": "constant"}) == {"schedule": "constant"}
    assert "end" not in space.default()


def test_a_condition_may_ask_a_conditional_knob() -> None:
    space = load(
        SCHEDULED.replace("min: 0.01, max: 1", "choice: [0.1, 1]")
        + "  late: {choice: [1, 2], when: {end: [0.1]}}\n"
    )
    everything = {"schedule": "linear", "end": 0.1, "late": 1.0}
    assert space.active(everything) == everything
    assert space.active({**everything, "end": 1.0}) == {"schedule": "linear", "end": 1.0}
    assert space.active({**everything, "schedule": "constant"}) == {"schedule": "constant"}


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("{schedul: linear}", "no knob is called 'schedul'; did you mean 'schedule'?"),
        ("{schedule: linaer}", "schedule is 'linaer'; it must be constant or linear"),
        ("{m: 7}", "m is never 7; it is one of: 4"),
        ("{end: 1}", "a knob cannot depend on itself"),
        ("{lr: 0.5}", "lr is a range from 0.0 to 1.0, which is hardly ever 0.5"),
        ("{schedule: linear, late: 3}", "these conditions are never true together"),
    ],
)
def test_a_condition_that_cannot_be_is_an_error(when: str, message: str) -> None:
    body = (
        "knobs:\n"
        "  schedule: {choice: [constant, linear]}\n"
        "  lr: {min: 0, max: 1}\n"
        "  late: {choice: [2, 3], when: {schedule: constant}}\n"
        f"  end: {{min: 0.01, max: 1, when: {when}}}\n"
    )
    found = messages(body)
    assert len(found) == 1
    assert found[0].startswith("lab.yaml:7:")
    assert message in found[0]


def test_conditions_in_a_circle_or_a_long_row_are_refused() -> None:
    circle = messages(
        "knobs:\n"
        "  rho: {choice: [0.1, 0.2], when: {late: 1}}\n"
        "  late: {choice: [1, 2], when: {rho: 0.1}}\n"
    )
    assert "knobs" not in circle[0] and "goes round in a circle: rho -> late -> rho" in circle[0]
    row = messages(
        "knobs:\n"
        "  m: {choice: [1, 2]}\n"
        "  rho: {choice: [0.1, 0.2], when: {m: 1}}\n"
        "  late: {choice: [1, 2], when: {rho: 0.1}}\n"
        "  end: {choice: [1, 2], when: {late: 1}}\n"
    )
    assert row == [
        "lab.yaml:7:31: end.when: at most two conditions in a row: end -> late -> rho -> m"
    ]


def test_points_tie_values_and_stay_out_of_the_knobs() -> None:
    space = load("points: [{lr: 0.1, rho: 0.5}, {lr: 0.05, rho: 0.1}]\nknobs: {lr: null}\n")
    assert space.points == ({"lr": 0.1, "rho": 0.5}, {"lr": 0.05, "rho": 0.1})
    assert not {"lr", "rho"} & set(space.knobs)
    assert (space.default()["lr"], space.default()["rho"]) == (0.1, 0.5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("points: []\n", "3:9: points: the list is empty"),
        ("points: [{lr: 1}, {rho: 1}]\n", "3:19: points[1]: every point names the same knobs: lr"),
        ("points: [{lr: 1}, {lr: 1}]\n", "3:19: points[1]: this point is listed twice"),
        ("points: [{lrr: 1}]\n", "3:11: toy has no knob 'lrr'; did you mean 'lr'?"),
        ("points: [{lr: 1}]\nknobs: {lr: 2}\n", "4:9: lr is tied by `points`; remove it here"),
        ("points: {lr: 1}\n", "3:9: points: a list [a, b, ...] belongs here, not a map"),
    ],
)
def test_points_that_cannot_be(body: str, message: str) -> None:
    found = messages(body)
    assert len(found) == 1
    assert found[0].startswith(f"lab.yaml:{message}")


# Files that build on others


def test_maps_merge_deep_lists_replace_and_null_removes() -> None:
    Path("below.yaml").write_text(
        "samtune: 1\n"
        "task: {batch_size: 32, split_seed: 5}\n"
        "search: {first: [default, {lr: 0.5}]}\n"
        "knobs:\n"
        "  lr: {min: 1e-3, max: 0.5, scale: log, default: 0.01}\n"
        "  rho: {min: 0.1, max: 0.2}\n"
        "  momentum: 0.5\n"
    )
    space = load(
        "extends: below.yaml\n"
        "task: {batch_size: 16}\n"
        "search: {first: []}\n"
        "knobs:\n"
        "  lr: {max: 0.1, default: null}\n"
        "  rho: {choice: [0.05, 0.1]}\n"
        "  momentum: null\n"
    )
    assert (space.task["batch_size"], space.task["split_seed"]) == (16, 5)
    assert space.search.first == []
    assert space.knobs["lr"] == Range(0.001, 0.1, "log", None, "float", 0.1)
    assert space.knobs["rho"] == Choice((0.05, 0.1), 0.05)
    assert space.knobs["momentum"] == Fixed(0.9)
    assert space.origin["knobs.lr.min"] == "below.yaml:5"
    assert space.origin["knobs.lr.max"] == "lab.yaml:7"
    assert space.origin["knobs.momentum"] == "default of toy"


def test_later_files_of_a_list_win_and_a_bare_name_is_the_shipped_one() -> None:
    Path("one.yaml").write_text("samtune: 1\nbudget: {per_trial: 3, trials: 4}\n")
    space = load("extends: [common, one.yaml]\n")
    assert (space.budget.per_trial, space.budget.trials) == (3, 4)
    assert space.task["dataset"] == "digits"
    assert space.origin["budget.trials"] == "one.yaml:2"


def test_an_error_below_is_told_with_the_file_it_is_in() -> None:
    Path("below.yaml").write_text("samtune: 1\nknobs:\n  rhoo: 1\n")
    assert messages("extends: below.yaml\n") == [
        "below.yaml:3:3: toy has no knob 'rhoo'; did you mean 'rho'?"
    ]


def test_a_circle_of_files_is_shown_as_a_chain() -> None:
    Path("a.yaml").write_text("samtune: 1\nextends: b.yaml\n")
    Path("b.yaml").write_text("samtune: 1\nextends: a.yaml\n")
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load("a.yaml")
    assert caught.value.messages == [
        "b.yaml:2:10: extends goes round in a circle: a.yaml -> b.yaml -> a.yaml"
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/x.yaml", "is an absolute path; write it relative to this file"),
        ("~/x.yaml", "is an absolute path"),
        ("https://a.b/c.yaml", "is a URL; only files beside this one"),
        ("../up.yaml", "leads out of the folder inner/"),
        ("link.yaml", "leads out of the folder inner/"),
        ("comon.yaml", "no file 'comon.yaml' beside this one; did you mean 'common'?"),
        ("7", "the name of a file belongs here, such as common.yaml"),
    ],
)
def test_only_files_beside_or_below_are_extended(name: str, message: str) -> None:
    Path("up.yaml").write_text("samtune: 1\n")
    Path("inner").mkdir()
    Path("inner/link.yaml").symlink_to(Path("up.yaml").resolve())
    Path("inner/a.yaml").write_text(f"samtune: 1\nextends: {name}\n")
    with pytest.raises(SpaceError, match=r"inner/a\.yaml:2:10: extends: ") as caught:
        SearchSpace.load("inner/a.yaml")
    assert len(caught.value.messages) == 1
    assert message in caught.value.messages[0]


def test_files_that_multiply_by_extending_each_other_are_cut() -> None:
    for level in range(12):
        below = f"f{level + 1}.yaml"
        Path(f"f{level}.yaml").write_text(f"samtune: 1\nextends: [{below}, {below}]\n")
    Path("f12.yaml").write_text("samtune: 1\n")
    begun = time.process_time()
    with pytest.raises(SpaceError, match="more than 32 files are read"):
        SearchSpace.load("f0.yaml")
    assert time.process_time() - begun < 1


# --set


def test_set_replaces_whole_knobs_parts_of_them_and_other_words() -> None:
    space = load(
        "knobs:\n  lr: {min: 1e-3, max: 0.5, scale: log}\n  rho: {min: 0.1, max: 0.5}\n",
        "lr.max=0.3",
        "rho=0",
        "knobs.m={choice: [1, 2]}",
        "momentum.min=0.1",
        "momentum.max=0.2",
        "task.dataset=cifar10",
        "budget.trials=4",
        "budget.trials=5",
    )
    assert space.knobs["lr"] == Range(0.001, 0.3, "log", None, "float", 0.1)
    assert space.knobs["rho"] == Fixed(0.0)
    assert space.knobs["m"] == Choice((1, 2), 1)
    assert space.knobs["momentum"] == Range(0.1, 0.2, "linear", None, "float", pytest.approx(0.15))
    assert space.task["dataset"] == "cifar10"
    assert space.budget.trials == 5
    assert space.origin["knobs.lr.max"] == "--set"
    assert space.origin["knobs.lr.min"] == "lab.yaml:4"
    assert space.origin["knobs.rho"] == "--set"


def test_set_null_removes_a_knob() -> None:
    assert load("knobs: {rho: 0.2}\n", "rho=null").knobs["rho"] == Fixed(0.05)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("lr.mx=0.3", "'lr.mx' is nothing that can be set; nearest: lr.max, lr.min, "),
        (
            "task.datset=digits",
            "'task.datset' is nothing that can be set; nearest: task.dataset, ",
        ),
        ("lr", "write it as path=value, such as lr.max=0.3"),
        ("lr=", "write it as path=value, such as lr.max=0.3"),
        ("lr=[0.1", "',' or ']' is missing in the list opened in line 1"),
        ("lr=fast", "lr: 'fast' is text, not a number"),
        ("rho=-1", "rho is -1; it must be at least 0"),
        ("task.dataset=mnist", "dataset is 'mnist'; it must be digits or cifar10"),
        ("budget.kind=null", "budget.kind: nothing is written here"),
        ("extends=common", "'extends' is nothing that can be set"),
        ("base=adma", "toy has no base 'adma'; did you mean 'adamw'?"),
        ("base=Muon", "toy has no base 'Muon'; Muon takes matrices only, and a network has"),
        ("base=sparse_adam", "toy has no base 'sparse_adam'; SparseAdam takes sparse gradients"),
    ],
)
def test_set_says_what_is_wrong_with_it(item: str, message: str) -> None:
    found = messages("knobs:\n  lr: {min: 0.1, max: 0.5}\n", item)
    assert len(found) == 1
    assert found[0].startswith(f"--set {item}: {message}")


# Ten mistakes of a newcomer, and what each prints


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("knobs:\n  rhoo: 0.5\n", "lab.yaml:4:3: toy has no knob 'rhoo'; did you mean 'rho'?"),
        (
            "knobs:\n  lr: '1e-2'\n",
            "lab.yaml:4:7: lr: '1e-2' is text, not a number; write 0.01 without quotes",
        ),
        ("knobs:\n  lr: fast\n", "lab.yaml:4:7: lr: 'fast' is text, not a number"),
        (
            "knobs:\n  lr: {min: 0.5, max: 0.1}\n",
            "lab.yaml:4:23: lr: min 0.5 is above max 0.1; swap them",
        ),
        (
            "knobs:\n  m: {chioce: [1, 2]}\n",
            "lab.yaml:4:7: knobs.m: 'chioce' is not a known word here; did you mean 'choice'?",
        ),
        (
            "knobs:\n  lr: [0.1, 0.2]\n",
            "lab.yaml:4:7: knobs.lr: a list where one value belongs; "
            "to try each: {choice: [...]} or {grid: [...]}",
        ),
        (
            "knobs:\n  lr: 0.1\n    rho: 0.5\n",
            "lab.yaml:5:8: a ':' inside a value; is this line indented too far, or is a space "
            "missing after the ':' above? (text with ': ' in it needs quotes)",
        ),
        (
            "knobs:\n    lr: 0.1\n  rho: 0.5\n",
            "lab.yaml:5:3: wrong indentation: this begins in column 3, where no map above has "
            "its entries; line it up with those it belongs to",
        ),
        (
            "knobs:\n  lr: 0.1\n  lr: 0.2\n",
            "lab.yaml:5:3: 'lr' is given twice; the first is in line 4",
        ),
        (
            "budget: {kind: epoch}\n",
            "lab.yaml:3:16: budget.kind: 'epoch' is none of compute, epochs, seconds; "
            "did you mean 'epochs'?",
        ),
        (
            "knobs:\n  beta1: 0.9\n",
            "lab.yaml:4:3: 'beta1' is a knob of the base adamw, and this space's base is sgd; "
            "remove it, or write `base: adamw`",
        ),
        (
            "knobs:\n  gamma_kept: 0.9\n",
            "lab.yaml:4:3: 'gamma_kept' is a knob of other, not of toy; "
            "toy has: rho, m, schedule, end, late, lr, momentum",
        ),
        ("knobs:\n\tlr: 0.1\n", "lab.yaml:4:1: a tab; YAML is indented and spaced with spaces"),
        (
            "budget:\n",
            "lab.yaml:3:8: budget: nothing is written here; write a value, or remove the line",
        ),
        (
            "task: digits\n",
            "lab.yaml:3:7: task: a map (`word: value`, one a line, indented) belongs here, "
            "not 'digits'",
        ),
    ],
)
def test_golden_messages(body: str, message: str) -> None:
    assert messages(body) == [message]


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ("lr: {min: 0, max: 1, scale: log}", "a log scale needs a min above 0, not 0.0"),
        (
            "lr: {min: 0.1, max: 1, scale: log, step: 0.1}",
            "step and scale: log do not go together",
        ),
        ("lr: {min: 0.1, max: 0.1}", "min and max are both 0.1; for one value write `lr: 0.1`"),
        (
            "lr: {min: 0, max: 1, step: 0.3}",
            "max 1.0 is not min plus whole steps; the last one is",
        ),
        ("lr: {min: 0, max: 1, step: 3}", "step 3.0 is wider than the range, 0.0 to 1.0"),
        ("lr: {min: 0, max: 1, step: 0}", "knobs.lr.step: must be greater than 0, not 0"),
        ("lr: {min: 0, max: 1, default: 2}", "default 2.0 is not in 0.0 to 1.0"),
        ("lr: {min: 0, max: 1, default: a}", "'a' is text, not a number"),
        ("lr: {min: 0}", "'max' is missing; a range is {min: ..., max: ...}"),
        ("lr: {}", "write a value, {min: ..., max: ...}, {choice: [...]} or {grid: [...]}"),
        ("lr: {min: 1,max: 2, choice: [1]}", "'min' is not a known word here"),
        ("m: {min: 1.5, max: 3}", "min 1.5 is not a whole number, and the type is int"),
        ("m: {min: 1, max: 3, type: float}", "whole numbers only; write type: int"),
        ("m: {min: 1, max: 3, type: itn}", "'itn' is none of int, float; did you mean 'int'?"),
        ("m: 1.5", "m is 1.5; it must be a whole number"),
        ("m: true", "true is not a number"),
        ("lr: -1", "lr is -1; it must be at least 0"),
        ("rho: {choice: []}", "the list is empty"),
        ("rho: {choice: [0.1, 0.1]}", "0.1 is listed twice"),
        ("rho: {choice: [0.1], default: 0.2}", "default 0.2 is not in the list; it has: 0.1"),
        ("rho: {choice: 0.1}", "a list belongs here: [0.1]"),
        ("rho: {grid: [[1]]}", "a list where one value belongs"),
        ("rho: .inf", "'.inf' is not a finite number"),
        ("rho: 1e999", "'1e999' is not a finite number"),
        ("rho: .nan", "'.nan' is not a finite number"),
        ("schedule: {min: 1, max: 2}", "write {choice: [constant, linear]}"),
        ("rho: null", "null removes an inherited knob, and there is none"),
    ],
)
def test_knobs_that_cannot_be(knob: str, message: str) -> None:
    found = messages(f"knobs:\n  {knob}\n")
    assert message in found[0]
    assert found[0].startswith("lab.yaml:4:")
    assert "Extra inputs" not in found[0] and "type=" not in found[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lab.yaml:1:1: the file is empty; begin it with `samtune: 1`"),
        ("# nothing\n", "lab.yaml:1:1: the file is empty; begin it with `samtune: 1`"),
        ("asam\n", "lab.yaml:1:1: text where a map belongs; begin the file with `samtune: 1`"),
        ("- asam\n", "lab.yaml:1:1: a list where a map belongs; begin the file with `samtune: 1`"),
        (
            "trainable: asam\n",
            "lab.yaml:1:1: begin the file with `samtune: 1` (the version of the format)",
        ),
        ("samtune: 2\n", "lab.yaml:1:10: this is format 2, and this samtune reads format 1"),
        (
            "samtune: 1\n",
            "lab.yaml:1:1: 'trainable' is missing; "
            f"write one of {', '.join(sorted(VARIANTS))}: `trainable: asam`",
        ),
        (
            "samtune: 1\ntrainable: labtrainables.mod:tpy\n",
            "lab.yaml:2:12: module labtrainables.mod has no trainable 'tpy'; did you mean 'toy'?",
        ),
        (
            "samtune: 1\ntrainable: os.path;x\n",
            "lab.yaml:2:12: 'os.path;x' names no trainable; "
            "write asam, or my_package.my_module:my_trainable",
        ),
    ],
)
def test_files_that_are_no_space(text: str, message: str) -> None:
    assert messages(text, head="") == [message]


def test_every_error_is_told_at_once_in_the_order_of_lines() -> None:
    found = messages(
        "knobs:\n"
        "  rho: {min: 2, max: 1}\n"
        "  lrr: 0.1\n"
        "  m: {chioce: [1]}\n"
        "budget: {trials: 0, kid: compute}\n"
        "task: {dataset: mnist, batchsize: 3}\n"
        "surch: {}\n",
        "momentum=fast",
        "nosuch=1",
    )
    places = [message.split(": ")[0] for message in found]
    assert places == [
        "--set momentum=fast",
        "--set nosuch=1",
        "lab.yaml:4:22",
        "lab.yaml:5:3",
        "lab.yaml:6:7",
        "lab.yaml:7:18",
        "lab.yaml:7:21",
        "lab.yaml:8:17",
        "lab.yaml:8:24",
        "lab.yaml:9:1",
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("asha: {factor: 1}\n", "asha.factor: must be greater than 1, not 1"),
        (
            "asha: {mode: halve}\n",
            "asha.mode: 'halve' is none of stop, promote, halving; did you mean 'halving'?",
        ),
        ("asha: {mode: hyperband}\n", "asha.mode: 'hyperband' is none of stop, promote, halving"),
        ("asha: {tolerance: -1}\n", "asha.tolerance: must be at least 0, not -1"),
        ("asha: {tolerance: se}\n", "asha.tolerance: 'se' is text, not a number"),
        ("asha: {audit: 10}\n", "asha.audit: must be at most 1, not 10"),
        ("asha: {audit: true}\n", "asha.audit: true is not a number"),
        ("asha: {adit: 0.1}\n", "'adit' is not a known word here; did you mean 'audit'?"),
        ("resources: {gpus: 1.5}\n", "resources.gpus: 1.5; above 1 it must be a whole number"),
        ("resources: {parallel: 0}\n", "0 is neither a whole number of at least 1 nor `auto`"),
        ("search: {seed: -1}\n", "search.seed: must be at least 0, not -1"),
        ("search: {first: default}\n", "search.first: a list belongs here: [default]"),
        ("search: {first: [defualt]}\n", "'defualt' is neither `default` nor a map"),
        ("search: {first: [{lr: 9}]}\n", "search.first: lr is never 9.0 in this space"),
        ("search: {first: [{lrr: 9}]}\n", "no knob 'lrr'; did you mean 'lr'?"),
        ("task: {split_seed: a}\n", "split_seed: a whole number of at least 0; 'a' is text"),
        ("search: {method: grid}\nknobs: {lr: {min: 0.1, max: 1}}\n", "needs a `step` here"),
        (
            "search: {method: grid}\nknobs: {lr: {min: 0, max: 1, step: 1e-6}}\n",
            "search.method: a grid of 1e+06 points",
        ),
    ],
)
def test_sections_that_cannot_be(body: str, message: str) -> None:
    found = messages(body)
    assert len(found) == 1
    assert message in found[0]


def test_a_grace_beyond_the_budget_means_no_early_stopping_and_is_told() -> None:
    (warning,) = load("asha: {grace: 30}\n").warnings
    assert "30 is more than budget.per_trial (20), so no trial is stopped early" in warning


# Hostile input

BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
)


HOSTILE = [
    (b"a: !!python/object/apply:os.system [ls]", "1:4: tags (tag:yaml.org,2002:python"),
    (b"a: !x 1", "1:4: tags (!x) are not used here"),
    (BOMB.encode(), "1:4: anchors and aliases (&a) are not used here"),
    (b"a: &a [*a]", "1:4: anchors and aliases (&a) are not used here"),
    (b"[" * 20_000, "1:34: nested deeper than 32 levels"),
    (b"{a: " * 20_000, "nested deeper than 32 levels"),
    (b"- " * 20_000, "nested deeper than 32 levels"),
    (b"? " * 20_000, "nested deeper than 32 levels"),
    (b"a: " + b"1" * 100_000_000, ": larger than 1 MiB"),
    (b"[" + b"a," * 500_000, "more than 10000 values"),
    (b"a\n" * 500_000, ": more than 20000 lines"),
    (b"a: 1\nb: \x00", "2:4: control character '\\x00'; is this a text file?"),
    (b"\x7fELF\x02\x01\x01", "1:1: control character '\\x7f'"),
    (b"a: \xff\xfe", "1:4: byte 0xff is not UTF-8; is this a text file?"),
    (b"\xef\xbb\xbfa: 1", "1:1: begins with a byte-order mark (BOM)"),
    ("a: 1".encode("utf-16"), "1:1: is UTF-16; save the file as UTF-8"),
    (b"a:\t1", "1:3: a tab; "),
    (b"a: 1\n--- \nb: 2", "2:1: a second document begins here"),
    (b"%YAML 1.1\n---\na: 1", "1:1: directives (%YAML, %TAG) are not used here"),
    (b'a: "\\e[2J"', "1:4: '\\x1b[2J' holds a character that cannot be printed"),
    (b'a: "\\UFFFFFFFF"', "not valid YAML"),
    (b"[a]: 1", "1:1: a word must stand before ':', not a map or list"),
    (b"a: 99999999999999999999", "1:4: a whole number must be below 2^63"),
]


@pytest.mark.parametrize(
    ("data", "message"),
    HOSTILE,
    ids=lambda value: None if isinstance(value, str) else repr(value[:20]),
)
def test_hostile_input_is_refused_in_under_a_second(data: bytes, message: str) -> None:
    Path("lab.yaml").write_bytes(data)
    begun = time.process_time()
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load("lab.yaml")
    assert time.process_time() - begun < 1
    assert message in caught.value.messages[0]
    assert all(len(line) < 300 and line.isprintable() for line in caught.value.messages)


@pytest.mark.parametrize("data", [data for data, _ in HOSTILE], ids=lambda data: repr(data[:20]))
def test_hostile_input_takes_little_memory(data: bytes) -> None:
    Path("lab.yaml").write_bytes(data)
    del data
    tracemalloc.start()
    with pytest.raises(SpaceError):
        SearchSpace.load("lab.yaml")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


@given(st.binary(max_size=200) | st.text("{}[]:,-?&*!|>'\"%@` \n\t#a1.~", max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes | str) -> None:
    try:
        strict_yaml.load(data if isinstance(data, bytes) else data.encode(), "f.yaml")
    except StrictYamlError as error:
        assert error.problems


WORDS = [
    "samtune",
    "trainable",
    "knobs",
    "points",
    "task",
    "budget",
    "search",
    "lr",
    "rho",
    "when",
]
WORDS += ["min", "max", "choice", "grid", "default", "first", "step", "scale", "asha", "extends"]
trees = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.sampled_from([*WORDS, "log", "", "0.1"]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(WORDS), below),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(WORDS), trees), trees)
def test_any_tree_is_read_or_refused_with_a_place(tree: dict[str, Any], knob: Any) -> None:
    tree = {"knobs": {"lr": knob}, **tree, "samtune": 1, "trainable": "labtrainables.mod:toy"}
    Path("lab.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    try:
        SearchSpace.load("lab.yaml")
    except SpaceError as error:
        assert all(message.startswith("lab.yaml:") for message in error.messages)


# Finding spaces and trainables


def test_a_path_that_exists_is_read_and_otherwise_the_shipped_space_of_that_name() -> None:
    Path("spaces").mkdir()
    Path("spaces/sgd.yaml").write_text(HEAD)
    own = SearchSpace.load("spaces/sgd.yaml")
    assert own.variant == "toy" and not own.from_shipped
    for reference in ("spaces/asam.yaml", "asam", "asam.yaml"):
        space = SearchSpace.load(reference)
        assert space.variant == "asam" and space.from_shipped
        assert space.path == shipped()["asam"]


@pytest.mark.parametrize("reference", ["spaces/nosuch.yaml", "a" * 5000, "a\0b", "spaces"])
def test_a_missing_file_lists_the_shipped_spaces(reference: str) -> None:
    Path("spaces").mkdir()
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load(reference)
    (message,) = caught.value.messages
    assert message.endswith(
        f"and no shipped space has that name ({', '.join(sorted(shipped()))}); "
        "`samtune spaces list` shows them"
    )
    assert message.isprintable()
    if reference.endswith("yaml"):
        assert message.startswith("spaces/nosuch.yaml: no such file, and")


def test_a_file_name_must_be_able_to_name_the_space() -> None:
    Path("My Space.yaml").write_text(HEAD)
    with pytest.raises(SpaceError, match="a space is named after its file, in a-z, 0-9"):
        SearchSpace.load("My Space.yaml")


def test_an_unknown_short_name_lists_the_trainables() -> None:
    with pytest.raises(SpaceError) as caught:
        resolve("asan")
    assert caught.value.messages == ["no trainable is called 'asan'; did you mean 'asam'?"]


def test_a_trainable_in_the_current_folder_is_found(tmp_path: Path) -> None:
    Path("mine_here.py").write_text("def train(config): ...\n")
    try:
        assert resolve("mine_here:train").__name__ == "train"
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["mine_here"]


def test_a_module_that_fails_on_import_is_told_as_such() -> None:
    Path("broken_here.py").write_text("1 / 0\n")
    with pytest.raises(SpaceError, match="broken_here cannot be imported: ZeroDivisionError"):
        resolve("broken_here:train")
    with pytest.raises(SpaceError, match="no module 'nowhere_here' in "):
        resolve("nowhere_here:train")


@pytest.mark.parametrize("package", [True, False])
def test_a_stray_trainables_package_is_refused_before_it_runs(
    tmp_path: Path, package: bool
) -> None:
    stray = tmp_path / "trainables"
    stray.mkdir()
    (stray / "vision.py").write_text("open('ran', 'w')\n")
    if package:
        (stray / "__init__.py").write_text("open('ran', 'w')\n")
    home = Path(samtune.__file__).parent
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "samtune").symlink_to(home)
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}]\n"
        # A namespace package only comes first where no ordinary one exists.
        f"sys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in repr(f)]\n"
        f"sys.path[:] = [p for p in sys.path if p != {str(home.parent)!r}] + [{str(alone)!r}]\n"
        "from samtune.space import SpaceError, resolve\n"
        "try:\n    resolve('asam')\n"
        "except SpaceError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=alone, check=True
    )
    assert f"{stray}" in done.stdout
    assert "stands in the way of samtune's own trainables/" in done.stdout
    assert not list(tmp_path.rglob("ran"))


def test_reading_spaces_imports_nothing_heavy() -> None:
    code = (
        "import sys, samtune.space\n"
        "heavy = {'torch', 'ray', 'numpy', 'pandas', 'optuna', 'scipy'} & set(sys.modules)\n"
        "samtune.space.shipped()\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# The frozen copy


def same(a: SearchSpace, b: SearchSpace) -> bool:
    return a == b and a.sha256 == b.sha256 and list(a.knobs) == list(b.knobs)


def test_the_frozen_text_is_whole() -> None:
    space = load(
        "extends: common\n" + SCHEDULED + "points: [{lr: 0.1, rho: 0.5}, {lr: 0.2, rho: 0.1}]\n",
        "m={grid: [1, 2]}",
    )
    assert hashlib.sha256(space.text.encode()).hexdigest() == space.sha256
    assert "extends" not in space.text
    copy = SearchSpace.from_text(space.text, "lab", "run/space.yaml")
    assert same(copy, space)
    assert copy.warnings == []
    assert copy.origin["knobs.m"].startswith("run/space.yaml:")
    again = load(space.text, name="again.yaml", head="")
    assert same(dataclasses.replace(again, name="lab"), space)
    jsonschema.validate(yaml.safe_load(space.text), space_schema())


def test_a_damaged_frozen_text_is_refused_with_its_place() -> None:
    text = load("knobs: {lr: 0.1}\n").text
    with pytest.raises(
        SpaceError, match=r"run/space\.yaml:3:1: 'varaint' is not a known word here"
    ):
        SearchSpace.from_text(text.replace("variant", "varaint"), "lab", "run/space.yaml")


numbers = st.floats(1e-30, 1e30) | st.integers(1, 10**9)
texts = st.text(st.characters(blacklist_categories=("C", "Z")), min_size=1, max_size=8)
scalars = (
    st.booleans()
    | numbers
    | texts
    | st.sampled_from(["1e-3", "on", "null", "~", "0x10", "a:b", ".5", "-", "a: b", "x ", "true"])
)


@st.composite
def ranges(draw: st.DrawFn) -> dict[str, Any]:
    low, high = sorted(draw(st.lists(numbers, min_size=2, max_size=2, unique_by=float)))
    spec: dict[str, Any] = {
        "min": low,
        "max": high,
        "scale": draw(st.sampled_from(["linear", "log"])),
    }
    if draw(st.booleans()):
        steps = draw(st.integers(1, 50))
        low, step = draw(st.integers(-100, 100)), draw(st.integers(1, 20))
        spec = {"min": low, "max": low + steps * step, "step": step}
        spec |= {"type": draw(st.sampled_from(["int", "float"]))}
    return spec


knobs = (
    scalars
    | ranges()
    | st.builds(
        lambda word, values: {word: values},
        st.sampled_from(["choice", "grid"]),
        st.lists(scalars, min_size=1, max_size=4, unique_by=lambda v: (isinstance(v, bool), v)),
    )
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), knobs, max_size=5
    ),
    st.dictionaries(st.sampled_from(["dataset", "model", "on", "null"]), scalars),
    numbers,
    st.booleans(),
)
def test_a_frozen_space_is_read_back_equal(
    knobs: dict[str, Any], task: dict[str, Any], per_trial: float, conditional: bool
) -> None:
    document = {
        "samtune": 1,
        "trainable": "labtrainables.mod:plain",
        "knobs": knobs,
        "task": task,
        "budget": {"per_trial": per_trial},
        "asha": {"grace": per_trial},
    }
    if conditional:
        document["knobs"] = {**knobs, "zz": {"choice": ["a", 1]}}
        document["knobs"]["zy"] = {"choice": [1, 2], "when": {"zz": ["a"]}}
    Path("lab.yaml").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    space = SearchSpace.load("lab.yaml")
    copy = SearchSpace.from_text(space.text, "lab", "space.yaml")
    assert same(copy, space)
    for name, domain in space.knobs.items():
        if isinstance(domain, Range):
            assert domain.low <= domain.default <= domain.high
        if isinstance(domain, Fixed) and isinstance(domain.value, float):
            assert math.isfinite(domain.value)
            assert copy.knobs[name] == domain
            assert type(copy.knobs[name].value) is float  # type: ignore[union-attr]


# The shipped spaces


@pytest.mark.parametrize("name", [*shipped(), "common"])
def test_shipped_files_fit_the_schema(name: str) -> None:
    path = Path(samtune.__file__).parent.parent / "search_spaces" / f"{name}.yaml"
    plain = strict_yaml.load(path.read_bytes(), name).plain()
    schema = space_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(plain, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**plain, "knobs": {"lr": {"chioce": [1]}}}, schema)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_shipped_spaces_load_without_a_warning(name: str) -> None:
    space = SearchSpace.load(name)
    assert space.warnings == []
    assert (space.name, space.variant) == (name, name)
    assert space.task["dataset"] == "digits"
    assert space.search.first == ["default"]
    assert same(SearchSpace.from_text(space.text, name, "space.yaml"), space)
    for knob, domain in space.knobs.items():
        if isinstance(domain, Range):
            assert space.origin[f"knobs.{knob}.default"].startswith(str(shipped()[name].parent))


PAPERS = {
    *("cifar10_resnet18", "cifar10_wrn28_10", "cifar10_pyramidnet"),
    *("cifar100_resnet18", "cifar100_wrn28_10", "cifar100_pyramidnet"),
    *("tinyimagenet_resnet18", "imagenet_resnet50", "imagenet_vit_small"),
}


def test_every_setting_of_papers_is_shipped_and_examined() -> None:
    assert set(shipped()) - set(VARIANTS) == PAPERS


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_settings_of_papers_load_and_plan(name: str) -> None:
    space = SearchSpace.load(name)
    assert space.warnings == []
    assert (space.name, space.variant, space.resources.gpus) == (name, "sam", 1)
    assert space.task["dataset"] == name.split("_")[0]
    assert space.task["label_noise"] == 0 and space.task["compile"] is True
    check_name(str(space.task["model"]))
    assert same(SearchSpace.from_text(space.text, name, "space.yaml"), space)
    planned = plan(space)
    # At least two rungs, and a search that costs less than half of what it would without them.
    assert len(planned["rungs"]) >= 2
    assert 0 < planned["see_expected"] < planned["budget_at_most"] / 2
    assert f"{planned['budget_per_trial']:g} see" in plan_text(planned)


def test_variants_are_compared_on_another_spaces_setting() -> None:
    setting = SearchSpace.load("cifar100_wrn28_10")
    for name in ("sgd", "asam", "gsam"):
        own = SearchSpace.load(name)
        space = SearchSpace.load(name, on="cifar100_wrn28_10")
        assert (space.name, space.variant, space.knobs) == (name, own.variant, own.knobs)
        assert space.task == setting.task and space.budget == setting.budget
        assert space.asha == setting.asha and space.resources == setting.resources
        assert space.origin["task.dataset"].startswith(str(shipped()["cifar100_wrn28_10"]))
    assert SearchSpace.load("asam", ["budget.trials=3"], "cifar100_wrn28_10").budget.trials == 3
    with pytest.raises(SpaceError, match="did you mean 'cifar10_resnet18'"):
        SearchSpace.load("asam", on="cifar10_resnet")
