"""Space files: what is read, where spaces and trainables are found, and the frozen copy."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_space import HEAD, SCHEDULED, load, messages, same

import samtune
from samtune.space import strict_yaml
from samtune.space.search_space import (
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

pytestmark = pytest.mark.usefixtures("toy_trainable", "in_folder")


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


@pytest.mark.parametrize(
    "reference",
    [
        "/x/nowhere/sam.yaml",
        "nowhere/sam.yaml",
        "../sam.yaml",
        "my/spaces/sam.yaml",
        "/sam",
        "x/sam",
    ],
)
def test_a_path_that_does_not_exist_is_no_shipped_space(reference: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load(reference)
    assert caught.value.messages == [
        f"{reference}: no such file; `sam` alone names the shipped space"
    ]


@pytest.mark.parametrize(
    "reference", ["sam", "sam.yaml", "spaces/sam.yaml", "search_spaces/sam.yaml"]
)
def test_a_shipped_space_is_meant_by_its_name_or_in_its_usual_folder(reference: str) -> None:
    assert SearchSpace.load(reference).path == shipped()["sam"]


def test_whole_ends_of_an_undeclared_knob_are_said_to_draw_fractions() -> None:
    head = "samtune: 1\ntrainable: labtrainables.mod:plain\n"
    space = load("knobs:\n  a: {min: 1, max: 3}\n", head=head)
    assert space.warnings[1] == (
        "lab.yaml:4:6: a: fractions between the whole numbers are tried as well; write "
        "`type: int` for whole numbers alone, or `type: float`"
    )
    for words in ("min: 1, max: 3, type: int", "min: 1, max: 3, type: float", "min: 1.0, max: 3"):
        assert len(load(f"knobs: {{a: {{{words}}}}}\n", head=head).warnings) == 1
    domain = load("knobs: {a: {min: 1, max: 5, step: 2}}\n", head=head).knobs["a"]
    assert domain == Range(1, 5, "linear", 2, "int", 3)


def test_a_space_that_extends_nothing_has_rungs_that_follow_its_budget() -> None:
    for per_trial, grace in [(20, 8), (9, 3.6), (200, 80), (7, 2.8)]:
        space = load(f"budget: {{kind: epochs, per_trial: {per_trial}}}\n")
        assert (space.asha.grace, space.asha.factor) == (grace, 2)
        assert SearchSpace.from_text(space.text, "lab", "space.yaml").asha == space.asha


@pytest.mark.parametrize("reference", ["spaces/nosuch.yaml", "a" * 5000, "a\0b", "spaces"])
def test_a_missing_file_lists_the_shipped_spaces(reference: str) -> None:
    Path("spaces").mkdir()
    with pytest.raises(SpaceError) as caught:
        SearchSpace.load(reference)
    (message,) = caught.value.messages
    assert message.endswith(
        f"and no shipped space has that name; there are {', '.join(sorted(shipped()))}; "
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
        f"import os, sys; sys.path[:0] = [{str(tmp_path)!r}]\n"
        # A namespace package only comes first where no ordinary one exists.
        f"sys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in repr(f)]\n"
        "others = [p for p in sys.path if not os.path.isdir(os.path.join(p, 'samtune'))]\n"
        f"sys.path[:] = others + [{str(alone)!r}]\n"
        "from samtune.space.search_space import SpaceError, resolve\n"
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
        "import sys, samtune.space.search_space as space\n"
        "heavy = {'torch', 'ray', 'numpy', 'pandas', 'optuna', 'scipy'} & set(sys.modules)\n"
        "space.shipped()\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# The frozen copy


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
            assert type(copy.knobs[name].value) is float


def test_sharpness_is_asked_of_a_trainable_that_can_measure_it() -> None:
    with_it = "confirm: {sharpness: true}\n"
    assert load(with_it, head="samtune: 1\ntrainable: sam\n").confirm.sharpness
    (message,) = messages(with_it)
    assert message.startswith("lab.yaml:3:22: confirm.sharpness: toy has no method sharpness(")
