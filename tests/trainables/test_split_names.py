"""Names of folders and files that mean a split, and names of classes that do not."""

from __future__ import annotations

import pytest

from trainables.datasets.errors import DataError
from trainables.datasets.split_names import is_split, split_of, splits_of


@pytest.mark.parametrize(
    ("split", "names"),
    [
        (
            "train",
            "train Train TRAINING training_set train_images TrainSet trainset train-data "
            "train2017 train_1 images_train trainval Training.Images",
        ),
        ("val", "val valid validation dev val2017 val_images ValidationSet devset valid_data"),
        (
            "test",
            "test testing test_set TestImages testset eval evaluation holdout hold_out "
            "Hold-Out held_out held-out-set test2007",
        ),
    ],
)
def test_names_that_mean_a_split(split: str, names: str) -> None:
    for name in names.split():
        assert split_of(name) == split and is_split(name), name


@pytest.mark.parametrize(
    "name", ["cats", "trains", "devices", "protest", "contest", "images", "trained", "prä-test-ä"]
)
def test_names_that_mean_none(name: str) -> None:
    assert not is_split(name)
    assert splits_of([name, "dogs"]) == {}


def test_a_word_beside_the_splits_word_needs_a_sibling() -> None:
    assert splits_of(["bullet_train", "test_tube", "car"]) == {}
    assert splits_of(["mnist_train", "mnist-test"]) == {
        "mnist_train": "train",
        "mnist-test": "test",
    }
    assert splits_of(["seg_train", "seg_test", "seg_pred"]) == {
        "seg_train": "train",
        "seg_test": "test",
    }


def test_parts_of_one_split_are_merged_only_under_one_name() -> None:
    assert splits_of(["train1", "train2", "Train"]) == dict.fromkeys(
        ["train1", "train2", "Train"], "train"
    )
    for pair in (
        ["test", "holdout"],
        ["train_images", "training"],
        ["trainA", "trainB", "testA", "testB"],
    ):
        with pytest.raises(DataError, match=f"folders {min(pair[:1])}|both look like the"):
            splits_of(pair)
