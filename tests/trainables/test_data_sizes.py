"""Sizes of the splits: a decimal number is a share, a whole number is a count of images."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_sets import folder_of
from typed import typed

from samtune.optimizers.knobs import KnobError
from samtune.space.search_space import SearchSpace
from samtune.trial import Budget, Seeds, TrialConfig, running
from trainables.data import DataError, load, make_ready
from trainables.data_task import TASK

CLEAN = {"dataset": "digits"}
KNOBS = {knob.name: knob for knob in TASK}


def sizes(**task: object) -> tuple[int, int]:
    data = load({**CLEAN, **task}, 1)
    return len(data.train), len(data.val)


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ({"train_size": 200}, (200, 297)),
        ({"train_size": 0.2}, (200, 297)),
        ({"train_size": 1000}, (1000, 297)),
        ({"train_size": 1.0}, (1000, 297)),
        ({"val_size": 97}, (1200, 97)),
        ({"val_size": 0.5}, (649, 648)),
        ({"val_size": 0}, (1000, 297)),
        ({"val_size": 0.0}, (1000, 297)),
        ({"val_size": 97, "train_size": 0.5}, (600, 97)),
        ({"val_size": 50, "train_size": 60, "classes": "3,5"}, (60, 50)),
    ],
)
def test_a_share_or_a_count(task: dict[str, object], wanted: tuple[int, int]) -> None:
    assert sizes(**task) == wanted


def test_one_image_is_not_all_of_them() -> None:
    """Even after the whole set, which is cached: 1 == 1.0 in Python."""
    assert sizes(train_size=1.0) == (1000, 297)
    match = r"train_size 1 leaves 1 of 1000 .* for 10 classes; .* for all of them write 1\.0"
    with pytest.raises(DataError, match=match):
        sizes(train_size=1)
    with pytest.raises(DataError, match=match):
        make_ready({**CLEAN, "train_size": 1})


@pytest.mark.parametrize("word", ["train_size", "val_size"])
@pytest.mark.parametrize(
    "value", [-1, -0.1, 1.5, 2000.0, float("nan"), float("inf"), True, "half"]
)
def test_sizes_that_are_neither_are_refused_with_the_range(word: str, value: object) -> None:
    high = "1.0" if word == "train_size" else "0.9"
    match = f"{word} is .* a share, a decimal number from 0.0 to {high}, or a count of images"
    with pytest.raises(KnobError, match=match):
        KNOBS[word].check(value)
    with pytest.raises(KnobError, match="for a count write 2000"):
        KNOBS[word].check(2000.0)


@pytest.mark.parametrize(
    ("task", "match"),
    [
        ({"train_size": 1001}, "train_size is 1001, and digits has 1000 training images"),
        ({"train_size": 1000, "val_size": 400}, "is 1000, and digits has 897 training images"),
        ({"val_size": 1297}, "val_size 1297 takes 1297 of 1297 training images of digits"),
        ({"val_size": 5000}, "val_size 5000 takes 5000 of 1297 training images of digits"),
        ({"val_size": 1290}, "which leaves too few for its 10 classes"),
    ],
)
def test_counts_above_what_there_is_are_refused_with_what_there_is(
    task: dict[str, object], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        sizes(**task)
    with pytest.raises(DataError, match=match):
        make_ready({**CLEAN, **task})


@pytest.mark.parametrize(("written", "value"), [("200", 200), ("0.2", 0.2), ("1.0", 1.0)])
def test_a_space_keeps_the_kind_of_number(tmp_path: Path, written: str, value: float) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"samtune: 1\nextends: sgd.yaml\ntask: {{train_size: {written}, val_size: {written}}}\n"
        if value < 1
        else f"samtune: 1\nextends: sgd.yaml\ntask: {{train_size: {written}}}\n"
    )
    for space in (
        SearchSpace.load(str(file)),
        SearchSpace.load("sgd", [f"task.train_size={written}"]),
    ):
        again = SearchSpace.from_text(space.text, "mine", "mine")
        for found in (space, again):
            assert found.task["train_size"] == value
            assert type(found.task["train_size"]) is type(value)
        assert not space.warnings


def test_a_count_above_the_set_stops_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = typed(capsys, "run", "sgd", "--set", "task.train_size=2000")
    assert code == 2 and "train_size is 2000, and digits has 1000 training images" in err
    code, _, err = typed(capsys, "run", "sgd", "--set", "task.val_size=1.5")
    assert code == 2 and "a share, a decimal number from 0.0 to 0.9, or a count of images" in err


def warnings_of(task: dict[str, object]) -> list[str]:
    reports: list[dict[str, object]] = []
    config = TrialConfig("t", "t", "none", {}, {}, Budget("epochs", 1), Seeds(1, 2, 3))
    with running(config, reports.append):
        from samtune.trial import report

        load(task, 1)
        report(epoch=1, val_acc=0.5)
    return list(reports[0]["warnings"])


@pytest.mark.usefixtures("root")
def test_a_small_validation_split_is_a_warning_with_its_standard_error(tmp_path: Path) -> None:
    assert warnings_of(CLEAN) == []
    (found,) = warnings_of({**CLEAN, "val_size": 48})
    assert "validation has 48 images" in found
    assert "accuracy of 50 % is 7.2 points, of 90 % 4.3;" in found
    name = f"folder:{folder_of(tmp_path / 'mine')}"
    assert len(warnings_of({"dataset": name})) == 2, "in every trial, cached or not"
    small, lacking = warnings_of({"dataset": name})
    assert "validation has 2 images" in small
    assert "validation has no image of these classes" in lacking and "(8)" in lacking


def test_a_dry_run_shows_a_share_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for written in ("1.0", "1", "0.5"):
        code, out, _ = typed(capsys, "run", "sgd", "--dry-run", f"--set=task.train_size={written}")
        assert code == 0 and f" train_size={written} " in out


@pytest.mark.usefixtures("root")
def test_a_dry_run_warns_of_a_small_validation_split_of_data_that_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"folder:{folder_of(tmp_path / 'mine')}"

    def warned(*words: str) -> bool:
        code, out, _ = typed(capsys, "run", "sgd", "--dry-run", *words)
        assert code == 0
        return "  warning         validation has" in out

    assert not warned()
    assert warned("--set=task.val_size=48")
    assert not warned(f"--set=task.dataset={name}"), "nothing is mapped by a dry run"
    assert not (tmp_path / "root").exists()
    make_ready({"dataset": name})
    assert warned(f"--set=task.dataset={name}")
    assert not warned("--set=task.dataset=cifar10"), "which is not here"
