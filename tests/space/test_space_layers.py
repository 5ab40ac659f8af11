"""Files that build on others, and what `--set` puts on top of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from toy_space import load, messages

from samtune.space.search_space import Choice, Fixed, Range, SearchSpace, SpaceError

pytestmark = pytest.mark.usefixtures("toy_trainable", "in_folder")


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
        ("base=torch.optim.NAdam", "toy has no base 'torch.optim.NAdam'; it has: sgd, adamw"),
    ],
)
def test_set_says_what_is_wrong_with_it(item: str, message: str) -> None:
    found = messages("knobs:\n  lr: {min: 0.1, max: 0.5}\n", item)
    assert len(found) == 1
    assert found[0].startswith(f"--set {item}: {message}")
