"""Layouts of image folders as people have them: split folders, wrapping folders, rare classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_files import classes, put

from trainables import datasets
from trainables.data import DataError, load, open_test
from trainables.sampling import split_by_class

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return tmp_path / "mine"


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set", "test_set"),
        ("train_images", "val_images"),
        ("training", "testing"),
        ("Train", "Valid"),
        ("train", "dev"),
        ("train", "holdout"),
        ("train2017", "val2017"),
        ("TrainSet", "TestSet"),
        ("trainset", "evalset"),
        ("flowers_train", "flowers_test"),
        ("data/train", "data/test"),
        ("archive/data/training_set", "archive/data/test_set"),
        ("training_set/training_set", "test_set/test_set"),
        ("train/images", "val/images"),
    ],
)
def test_split_folders_are_no_classes(mine: Path, train: str, test: str) -> None:
    classes(mine / train, "cats", "dogs", count=5)
    classes(mine / test, "cats", "dogs", count=2)
    source = datasets.find(f"folder:{mine}")
    assert source.class_names == ("cats", "dogs")
    assert [len(source.parts[part].labels) for part in ("train", "test")] == [10, 4]


def test_splits_may_lie_inside_the_classes(mine: Path) -> None:
    for name in ("cats", "dogs"):
        classes(mine / name, "train", count=5)
        classes(mine / name, "test", count=2)
    source = datasets.find(f"folder:{mine}")
    assert source.class_names == ("cats", "dogs")
    assert [len(source.parts[part].labels) for part in ("train", "test")] == [10, 4]
    put(mine / "birds" / "0.png")
    with pytest.raises(DataError, match=r"cats/test/0.png lies in .* a split, and birds/0.png"):
        datasets.find(f"folder:{mine}")


@pytest.mark.parametrize("wrapping", ["photos", "a/b", "my data"])
def test_a_single_wrapping_folder_is_gone_through(mine: Path, wrapping: str) -> None:
    classes(mine / wrapping, "cats", "dogs")
    assert datasets.find(f"folder:{mine}").class_names == ("cats", "dogs")


def test_classes_with_a_splits_word_in_their_names(mine: Path) -> None:
    classes(mine, "bullet_train", "test_tube", "trains")
    assert datasets.find(f"folder:{mine}").class_names == ("bullet_train", "test_tube", "trains")


@pytest.mark.parametrize(
    ("folders", "match"),
    [
        (("train_images", "test_images"), "train_images/0.png is in no folder of a class"),
        (
            ("cats_train", "dogs_train", "cats_test", "dogs_test"),
            "folders cats_test and dogs_test both look like the test split",
        ),
        (("cats_train", "dogs_train", "cats_test"), "cats_train/0.png is in no folder of a class"),
        (("train/cats", "train/dogs", "test/cats", "holdout/cats"), "holdout and test both look"),
        (("train/cats", "train/dogs", "extra/cats"), "extra/cats/0.png lies beside train/"),
        (("train/cats", "train/dogs", "test/Cats", "test/x"), "'Cats', .*; did you mean cats"),
    ],
)
def test_folders_that_are_neither_are_refused(
    mine: Path, folders: tuple[str, ...], match: str
) -> None:
    for folder in folders:
        classes(mine, folder)
    with pytest.raises(DataError, match=match):
        datasets.find(f"folder:{mine}")


@pytest.mark.parametrize(
    "counts", [(20, 20, 1), (20, 20, 2), (6, 1), (1, 6), (2, 2), (9, 1, 1, 1)]
)
def test_every_class_keeps_a_training_image(mine: Path, counts: tuple[int, ...]) -> None:
    for label, count in enumerate(counts):
        classes(mine, f"c{label}", count=count)
    task = {"dataset": f"folder:{mine}"}
    for seed in range(5):
        train = load(task, seed).train
        assert train.labels.bincount(minlength=len(counts)).min() >= 1
    assert len(open_test(task, 1, "a test"))


@pytest.mark.parametrize("counts", [(1, 1), (2, 1), (1, 1, 1, 1)])
def test_too_few_images_for_three_splits_are_refused(mine: Path, counts: tuple[int, ...]) -> None:
    for label, count in enumerate(counts):
        classes(mine, f"c{label}", count=count)
    total, number = sum(counts), len(counts)
    match = f"has {total} images of {number} classes, and needs at least {number + 2}: training"
    with pytest.raises(DataError, match=match):
        load({"dataset": f"folder:{mine}"}, 1)


def test_a_deal_of_any_sizes_is_exact_and_gives_training_every_class() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        labels = rng.integers(0, 6, rng.integers(8, 40))
        present = len(np.unique(labels))
        first = int(rng.integers(present, len(labels) + 1))
        second = int(rng.integers(0, len(labels) - first + 1))
        sizes = (first, second, len(labels) - first - second)
        parts = split_by_class(labels, sizes, rng)
        assert tuple(map(len, parts)) == sizes
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
        assert len(np.unique(labels[parts[0]])) == present
