"""Checkpoints are written behind the training, and reported once they are on disk."""

from __future__ import annotations

import errno
import gc
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from weakref import ref

import pytest
import torch
from digits_trial import CutError, config_of, curve, train
from torch.optim.optimizer import register_optimizer_step_pre_hook

from samtune.optimizers import Variant
from samtune.trial import Budget, running
from trainables import checkpoint, vision
from trainables.saver import Saver, _Pack, held

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def stepped() -> Iterator[list[int]]:
    """The steps so far, in its only entry."""
    count = [0]

    def step(optimizer: object, *_: object) -> None:
        count[0] += isinstance(optimizer, Variant)

    hook = register_optimizer_step_pre_hook(step)
    yield count
    hook.remove()


def test_the_next_epoch_begins_before_the_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stepped: list[int]
) -> None:
    """GPU defect 3. Otherwise the training would wait for the disk, for a third of an epoch."""
    save, goes_on = checkpoint.save, Event()
    per_epoch = 16
    config = config_of(vision.sgd, budget=Budget("epochs", 2), checkpoint_dir=str(tmp_path))
    sent = []

    def slow(folder: Path, epoch: int, state: dict[str, object]) -> checkpoint.Saved:
        if epoch == 1:
            assert goes_on.wait(60), "the training waited"
        return save(folder, epoch, state)

    def step(optimizer: object, *_: object) -> None:
        if isinstance(optimizer, Variant) and stepped[0] == per_epoch + 3:
            assert not sent and checkpoint.latest(tmp_path) is None
            goes_on.set()

    monkeypatch.setattr(checkpoint, "save", slow)
    hook = register_optimizer_step_pre_hook(step)

    def send(report: dict[str, object]) -> None:
        saved = checkpoint.verify(Path(str(report["checkpoint"])))
        assert saved.sha256 == report["checkpoint_sha256"]
        sent.append(report["epoch"])

    try:
        with running(config, send):
            vision.sgd(config)
    finally:
        hook.remove()
    assert goes_on.is_set() and sent == [1, 2]
    assert stepped[0] == 2 * per_epoch


def test_what_is_written_is_the_state_at_the_end_of_the_epoch(tmp_path: Path) -> None:
    """The weights move on in place meanwhile."""
    weights, begun = torch.zeros(1000), Event()
    sent: list[checkpoint.Saved | None] = []
    saver = Saver(tmp_path)
    saver._pool.submit(begun.wait)
    saver.start(1, {"weights": weights, "again": [weights], "lr": 0.5}, sent.append)
    weights.fill_(1)
    saver.settle(wait=False)
    assert sent == []
    begun.set()
    saver.settle(wait=True)
    saver.close()
    [saved] = sent
    assert saved is not None
    loaded = checkpoint.load(saved.path)
    assert torch.equal(loaded["weights"], torch.zeros(1000)) and loaded["lr"] == 0.5
    assert loaded["again"][0].data_ptr() == loaded["weights"].data_ptr(), "one tensor stays one"


def test_a_copy_keeps_the_kinds_and_layouts() -> None:
    state = torch.nn.BatchNorm2d(3).state_dict()
    images = torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    copied = held({"model": state, "images": images, "rng": (1, (2, 3), [4])})()
    assert isinstance(copied["model"], OrderedDict)
    assert copied["model"]._metadata == state._metadata
    assert copied["images"].stride() == images.stride()
    assert copied["rng"] == (1, (2, 3), [4])


KINDS_OF_TENSORS = {
    "number": torch.tensor(3.5),
    "row": torch.arange(5.0),
    "channels_last": torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "one_by_one": torch.rand(4, 3, 1, 1).contiguous(memory_format=torch.channels_last),
    "transposed": torch.rand(3, 4).T,
    "part": torch.rand(6, 4)[::2, 1:3],
    "expanded": torch.rand(3, 1).expand(3, 2),
    "empty": torch.zeros(0, 3),
}


def test_packed_tensors_keep_their_values_and_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU defect 3. The copies of a checkpoint are one, here without pinned memory and a GPU."""
    like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda t, **_: like(t))
    pairs = [(t, like(t).fill_(-1)) for t in KINDS_OF_TENSORS.values()]
    _Pack(pairs).unpack()
    for t, copy in pairs:
        assert torch.equal(copy, t)
        assert copy.stride() == like(t).stride()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_copies_of_a_gpu_have_its_values_of_that_moment() -> None:
    kinds = {name: t.cuda() for name, t in KINDS_OF_TENSORS.items()}
    state = {"kinds": kinds, "steps": [torch.arange(3, device="cuda"), torch.ones(2)]}
    arrived = held(state)
    for t in (*kinds.values(), *state["steps"]):
        t.zero_()
    copied = arrived()
    for name, t in KINDS_OF_TENSORS.items():
        assert torch.equal(copied["kinds"][name], t)
        assert not copied["kinds"][name].is_cuda
    assert copied["steps"][0].tolist() == [0, 1, 2] and copied["steps"][1].tolist() == [1, 1]


def test_a_disk_that_is_full_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="full"):
        train(config_of(vision.sgd, budget=Budget("epochs", 3), checkpoint_dir=str(tmp_path)))


def test_a_checkpoint_every_other_epoch_and_at_the_end(tmp_path: Path) -> None:
    config = config_of(vision.sam, budget=Budget("epochs", 5))
    whole = train(config)
    config = replace(
        config, task={**config.task, "checkpoint_every": 2}, checkpoint_dir=str(tmp_path)
    )
    with pytest.raises(CutError):
        train(config, cut_at=3)
    reports = train(config)
    saved = [bool(report["checkpoint"]) for report in reports]
    assert [report["epoch"] for report in reports] == [2, 3, 4, 5]
    assert saved == [True, False, True, True]
    assert curve(reports) == curve(whole[1:])


def test_the_memory_of_a_copy_is_free_once_it_is_written() -> None:
    """It is pinned, and the next checkpoint uses it again, whether cycles are collected or not."""
    copies = held({"weights": [torch.zeros(3)]})()
    memory = ref(copies["weights"][0])
    gc.disable()
    try:
        del copies
        assert memory() is None
    finally:
        gc.enable()
