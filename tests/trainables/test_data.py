"""Splits are exact, stratified and seeded; noise stays in training; test needs a permit."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CIFAR10

import trainables.datasets.digits as digits_file
from trainables import data
from trainables import split as splits
from trainables.data import DataError, Split, TrainVal, load, open_test
from trainables.datasets.digits import digits
from trainables.datasets.labels import _CIFAR100, confusions

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
    """A published leaderboard names split seeds, so every version of numpy must deal alike."""
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


def test_the_digest_of_a_test_split_names_its_images() -> None:
    def named(seed: int = 1, sha256: str = digits_file.SHA256, **words: Any) -> str:
        return data.digest(open_test(CLEAN, seed, "a test"), CLEAN | words, sha256)

    noisy = data.digest(open_test(TASK, 1, "a test"), TASK, digits_file.SHA256)
    assert named() == noisy and len(noisy) == 16
    others = {named(seed=2), named(sha256="0"), named(corruption="fog"), named(severity=3)}
    assert len(others - {noisy}) == 4


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


def test_words_left_out_have_their_defaults_and_bad_ones_are_told() -> None:
    assert {knob.name: knob.check(knob.default) for knob in data.TASK} == {
        knob.name: knob.default for knob in data.TASK
    }
    with pytest.raises(DataError, match=r"label_noise_kind is 'asymetric'.*mean asymmetric\?"):
        load({"label_noise_kind": "asymetric"}, 0)
    with pytest.raises(DataError, match="classes is '3'; it must be two or more classes"):
        load({"classes": "3"}, 0)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_train_size_takes_of_each_class_alike_and_leaves_the_rest_as_it_is(share: float) -> None:
    whole, some = load(CLEAN, 1), load({**CLEAN, "train_size": share}, 1)
    assert len(some.train) == 1000 * share
    counts = whole.train.labels.bincount() * share - some.train.labels.bincount()
    assert counts.abs().max() < 1.01
    assert set(some.train.rows.tolist()) < set(whole.train.rows.tolist())
    assert torch.equal(some.val.rows, whole.val.rows)
    again = load({**CLEAN, "train_size": share}, 2)
    assert images_of(again.train) != images_of(some.train)
    with pytest.raises(DataError, match="leaves 1 of 1000 training images for 10 classes"):
        load({**CLEAN, "train_size": 0.001}, 1)


def test_val_size_moves_images_between_training_and_validation_only() -> None:
    whole, other = load(CLEAN, 1), load({**CLEAN, "val_size": 0.5}, 1)
    assert (len(other.train), len(other.val)) == (649, 648)
    assert images_of(other.train, other.val) == images_of(whole.train, whole.val)
    assert (
        np.abs(np.diff([s.labels.bincount() for s in (other.train, other.val)], axis=0)).max() <= 2
    )


def test_classes_are_kept_by_number_or_name_and_numbered_anew() -> None:
    some, whole = load({**CLEAN, "classes": "7,2"}, 1), load(CLEAN, 1)
    assert some.classes == 2
    test, all_test = (open_test(task, 1, "x") for task in ({**CLEAN, "classes": "2, 7"}, CLEAN))
    for few, every in ((some.train, whole.train), (some.val, whole.val), (test, all_test)):
        kept = (every.labels == 2) | (every.labels == 7)
        assert torch.equal(few.images[few.rows], every.images[every.rows[kept]])
        assert torch.equal(few.labels, (every.labels[kept] == 7).long())
    with pytest.raises(DataError, match="classes '3,03' of digits is one class; give two"):
        load({**CLEAN, "classes": "3,03"}, 1)
    with pytest.raises(DataError, match=r"digits has no class '12'; .* \(it has 0, 1, .*9\)"):
        load({**CLEAN, "classes": "3,12"}, 1)


def test_asymmetric_noise_takes_a_share_of_each_class_for_the_next() -> None:
    clean = load(CLEAN, 1).train.labels
    noisy = load({**CLEAN, "label_noise": 0.3, "label_noise_kind": "asymmetric"}, 1).train.labels
    wrong = clean != noisy
    assert torch.equal(noisy[wrong], (clean[wrong] + 1) % 10)
    assert wrong.double().mean() == pytest.approx(0.3, abs=0.005)
    assert ((clean[wrong].bincount() - 0.3 * clean.bincount()).abs() <= 0.5).all()
    everything = load({**CLEAN, "label_noise": 1, "label_noise_kind": "asymmetric"}, 1).train
    assert torch.equal(everything.labels, (clean + 1) % 10)


def test_classes_are_taken_for_those_most_like_them() -> None:
    taken = {CIFAR10[k]: CIFAR10[other] for k, other in enumerate(confusions(CIFAR10))}
    assert {a: b for a, b in taken.items() if a != b} == {
        **{"truck": "automobile", "bird": "airplane", "deer": "horse"},
        **{"cat": "dog", "dog": "cat"},
    }
    assert confusions(["bird", "cat", "dog"]) == [0, 2, 1]
    table = [line.split() for line in _CIFAR100.strip().splitlines()]
    hundred = sorted(name for line in table for name in line)
    assert len(table) == 20 and len(set(hundred)) == 100
    taken = {hundred[k]: hundred[other] for k, other in enumerate(confusions(hundred))}
    assert taken["whale"] == "beaver" and taken["apple"] == "mushroom"
    assert confusions(["a", "b", "c"]) == [1, 2, 0]


def test_batches_are_the_images_of_the_order() -> None:
    train = load(TASK, 1).train
    order = torch.randperm(len(train))[:130]
    got = list(train.batches(order, 64, torch.device("cpu")))
    assert [len(labels) for _, labels in got] == [64, 64, 2]
    images, labels = (torch.cat(part) for part in zip(*got, strict=True))
    assert torch.equal(images, train.images[train.rows[order]])
    assert torch.equal(labels, train.labels[order])
    assert train.resident(torch.device("cpu")) is train


def test_a_store_larger_than_memory_is_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    train = load(TASK, 1).train
    order = torch.randperm(len(train))
    at_hand = list(train.batches(order, 64, torch.device("cpu")))
    monkeypatch.setattr(splits, "_memory", lambda: 1)
    ahead = train.batches(order, 64, torch.device("cpu"))
    for (images, labels), (images_too, labels_too) in zip(at_hand, ahead, strict=True):
        assert torch.equal(images, images_too) and torch.equal(labels, labels_too)
    threads = threading.active_count()
    left = train.batches(order, 64, torch.device("cpu"))
    next(left)
    assert threading.active_count() > threads
    left.close()
    assert threading.active_count() == threads, "whoever stops early leaves no thread behind"


def test_splits_of_one_store_share_one_copy_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is torch's `meta`: tensors without contents."""
    device = torch.device("meta")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    monkeypatch.setattr(splits, "_copies", {})
    drawn, free = load(TASK, 1), 10**6
    train, val = drawn.train.resident(device), drawn.val.resident(device)
    assert train.images.shape == drawn.train.images.shape and train.images.device == device
    assert drawn.train.resident(device).images is train.images
    some = load({**TASK, "train_size": 0.9}, 1).train
    assert some.images is not drawn.train.images, "digits are dealt anew"
    assert val.images.shape == (297, 1, 8, 8), "less than half of the store has a copy of its own"
    assert drawn.val.resident(device).images is val.images
    assert [len(labels) for _, labels in val.batches(torch.arange(297), 200, device)] == [200, 97]
    for seed in range(2, 8):
        load(TASK, seed).train.resident(device)
    assert len(splits._copies) == 4
    free = 10**4
    other = load(TASK, 9).train
    assert other.resident(device) is other, "what does not fit stays, and is sent in batches"


@pytest.mark.cuda
def test_on_a_gpu_splits_of_one_store_share_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    gpu = torch.device("cuda")
    drawn = load(TASK, 1)
    train, val = drawn.train.resident(gpu), drawn.val.resident(gpu)
    assert train.images.is_cuda and train.labels.is_cuda
    assert drawn.train.resident(gpu).images is train.images
    assert val.images is not train.images, "validation is less than half of the store"
    order = torch.randperm(len(train))
    monkeypatch.setattr(splits, "_SHARE", 0.0)
    splits._copies.clear()
    assert drawn.train.resident(gpu) is drawn.train, "what does not fit is sent in batches"
    pairs = zip(
        train.batches(order.to(gpu), 64, gpu),
        drawn.train.batches(order.to(gpu), 64, gpu),
        strict=True,
    )
    for (images, labels), (images_too, labels_too) in pairs:
        assert images_too.is_cuda and torch.equal(images, images_too)
        assert torch.equal(labels, labels_too)
