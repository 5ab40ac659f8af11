"""Splits are exact, stratified and seeded; noise stays in training; test needs a permit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import trainables.datasets.digits as digits_file
from trainables import data
from trainables.data import DataError, Split, TrainVal, load, open_test
from trainables.datasets.digits import digits

TASK = {"dataset": "digits", "label_noise": 0.4}
CLEAN = {"dataset": "digits"}
# First twelve labels of split seed 1, with 40 % noise.
GOLDEN_VAL = [3, 5, 9, 0, 2, 3, 4, 8, 0, 5, 1, 2]
GOLDEN_TRAIN = [4, 0, 1, 5, 2, 2, 3, 8, 6, 3, 5, 9]


def images_of(*splits: Split) -> set[bytes]:
    return {image.numpy().tobytes() for s in splits for image in s.images[s.rows]}


@pytest.mark.parametrize("seed", range(20))
def test_splits_have_exact_sizes_and_each_class_within_one_of_its_share(seed: int) -> None:
    drawn = load(CLEAN, seed)
    splits = {"train": drawn.train, "val": drawn.val, "test": open_test(CLEAN, seed, "a test")}
    assert {name: len(s.labels) for name, s in splits.items()} == {
        "train": 1000,
        "val": 297,
        "test": 500,
    }
    held = np.bincount(digits().parts["train"].labels)
    for split in splits.values():
        share = held * len(split.labels) / held.sum()
        assert np.abs(np.bincount(split.labels.numpy()) - share).max() <= 1


def test_splits_are_disjoint_and_cover_everything() -> None:
    drawn, test = load(CLEAN, 3), open_test(CLEAN, 3, "a test")
    parts = [images_of(drawn.train), images_of(drawn.val), images_of(test)]
    source = digits().parts["train"]
    everything = {image.tobytes() for image in source.images}
    assert len(everything) == 1797, "no image comes twice, so images identify themselves"
    assert set.union(*parts) == everything
    assert sum(map(len, parts)) == 1797


def test_images_keep_their_own_labels() -> None:
    source = digits().parts["train"]
    label_of = {
        image.tobytes(): label for image, label in zip(source.images, source.labels, strict=True)
    }
    drawn = load(CLEAN, 5)
    for split in (drawn.train, drawn.val, open_test(CLEAN, 5, "a test")):
        for image, label in zip(split.images[split.rows], split.labels, strict=True):
            assert label_of[image.numpy().tobytes()] == label


def test_tensors_are_as_promised() -> None:
    drawn = load(TASK, 0)
    assert drawn.train.images.dtype == torch.uint8
    assert drawn.train.images.shape == (1297, 1, 8, 8)
    assert drawn.train.rows.shape == drawn.train.labels.shape == (1000,)
    assert drawn.train.rows.dtype == drawn.train.labels.dtype == torch.int64
    assert int(drawn.train.images.max()) == 16
    assert drawn.classes == 10
    assert drawn.sha256 == digits_file.SHA256
    pixels = drawn.train.images[drawn.train.rows].double()
    assert drawn.mean.item() == pytest.approx(pixels.mean().item())
    assert drawn.std.item() == pytest.approx(pixels.std().item())


def test_equal_seeds_draw_equal_splits_and_others_differ() -> None:
    first = load(TASK, 7)
    data._train_val.cache_clear()
    again, other = load(TASK, 7), load(TASK, 8)
    assert again is not first
    for name in ("images", "rows", "labels"):
        assert torch.equal(getattr(first.train, name), getattr(again.train, name))
    assert not torch.equal(first.train.rows, other.train.rows)


def test_the_split_of_seed_1_stays_what_it_is() -> None:
    """A published leaderboard names split seeds; another numpy must not deal other images."""
    drawn = load(TASK, 1)
    assert drawn.val.labels[:12].tolist() == GOLDEN_VAL
    assert drawn.train.labels[:12].tolist() == GOLDEN_TRAIN


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 1.0])
def test_noise_redraws_its_share_of_the_training_labels_only(share: float) -> None:
    wrong = []
    for seed in range(10):
        clean, noisy = load(CLEAN, seed), load({**CLEAN, "label_noise": share}, seed)
        assert torch.equal(clean.train.rows, noisy.train.rows)
        assert torch.equal(clean.val.labels, noisy.val.labels)
        wrong.append((clean.train.labels != noisy.train.labels).double().mean().item())
    assert max(wrong) <= share
    # A redrawn label is right by chance in one of ten cases: 10,000 labels, 5 standard errors.
    assert np.mean(wrong) == pytest.approx(0.9 * share, abs=5 * (0.09 * share / 1e4) ** 0.5)


def test_test_labels_are_clean_under_noise() -> None:
    assert torch.equal(open_test(TASK, 2, "x").labels, open_test(CLEAN, 2, "x").labels)


def test_what_a_search_trial_gets_has_no_test_split() -> None:
    names = {field.name for field in dataclasses.fields(TrainVal)}
    assert names == {"train", "val", "classes", "mean", "std", "name", "sha256"}
    assert not [name for name in dir(load(TASK, 0)) if "test" in name]


@pytest.mark.parametrize("permit", [None, "", "  "])
def test_test_stays_shut_without_a_permit(permit: str | None) -> None:
    with pytest.raises(DataError, match=r"samtune confirm.* gives one"):
        open_test(TASK, 0, permit)


def test_a_misspelt_data_set_names_the_right_one() -> None:
    with pytest.raises(DataError, match=r"unknown data set 'digit'; did you mean digits\?"):
        load({"dataset": "digit"}, 0)
    with pytest.raises(DataError, match="there is: digits"):
        open_test({"dataset": "mnist"}, 0, "x")


def test_impossible_noise_is_refused() -> None:
    with pytest.raises(DataError, match=r"label_noise is 1\.5"):
        load({"label_noise": 1.5}, 0)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    raw = bytearray(digits_file.FILE.read_bytes())
    if damage == "flip":
        raw[20000] ^= 1
    path = tmp_path / "digits.npz"
    if damage != "gone":
        path.write_bytes(raw[:-1] if damage == "cut" else raw)
    monkeypatch.setattr(digits_file, "FILE", path)
    digits.cache_clear()
    try:
        with pytest.raises(DataError, match="reinstall it"):
            digits()
    finally:
        digits.cache_clear()
