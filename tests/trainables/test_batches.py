"""Several batches that are augmented at once, as on a GPU, are those of single ones."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor

from trainables import batches
from trainables.augment import KINDS, Augment, Normaliser
from trainables.batches import Batches
from trainables.parallel import Ranks
from trainables.split import Split
from trainables.targets import Mixer

at_a_time = batches._at_a_time
CPU = torch.device("cpu")
# The last batch is too small for two ranks.
COUNTS = [8, 8, 8, 8, 3]
MIXES = [(0.0, 0.0), (0.3, 0.0), (0.5, 1.0)]


@pytest.fixture(autouse=True)
def three_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_at_a_time", lambda values, device: 3)


def made(kind: str, mix: tuple[float, float] = (0, 0), rank: int = 0, of: int = 1) -> Batches:
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=draw)
    rows = torch.randperm(40, generator=draw)[: sum(COUNTS)]
    train = Split(images, rows, torch.arange(sum(COUNTS)) % 10)
    augment = Augment(kind, Normaliser(torch.zeros(3), torch.ones(3)), seed=5)
    return Batches(train, COUNTS, augment, Mixer(*mix, 10, 5), CPU, Ranks(rank, of, None))


def seen(of: Batches, epoch: int, **words: bool) -> list[tuple[Tensor, Tensor]]:
    return [(x.clone(), y.clone()) for _, x, y in of.epoch(epoch, **words)]


def assert_equal(ours: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]]) -> None:
    for (x, y), (their_x, their_y) in zip(ours, theirs, strict=True):
        assert torch.equal(x, their_x) and torch.equal(y, their_y)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_share_the_batches_of_one_process(kind: str, mix: tuple[float, float]) -> None:
    whole = seen(made(kind, mix), 2)
    assert [len(x) for x, _ in whole] == COUNTS
    first, second = (seen(made(kind, mix, rank, 2), 2) for rank in (0, 1))
    for (x, y), (x0, y0), (x1, y1) in zip(whole[:-1], first, second, strict=False):
        assert torch.equal(torch.cat([x0, x1]), x) and torch.equal(torch.cat([y0, y1]), y)
    assert_equal(first[-1:], whole[-1:])
    assert_equal(second[-1:], whole[-1:])


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_sees_the_same_whatever_came_before(kind: str, mix: tuple[float, float]) -> None:
    used = made(kind, mix)
    first = seen(used, 1)
    # A budget may end in the middle of an epoch.
    assert len(list(islice(used.epoch(1), 4))) == 4
    assert_equal(seen(used, 2), seen(made(kind, mix), 2))
    assert_equal(seen(used, 1), first)
    assert_equal(seen(used, 1, mixed=False), seen(made(kind), 1))


def test_images_and_labels_are_those_of_single_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for mix in MIXES:
        together = seen(made("none", mix), 3)
        with monkeypatch.context() as patch:
            patch.setattr(batches, "_at_a_time", lambda values, device: 1)
            assert_equal(together, seen(made("none", mix), 3))


def test_a_gpu_makes_eight_batches_at_a_time_and_fewer_of_large_images() -> None:
    gpu, cifar, large = torch.device("cuda"), 128 * 3 * 32 * 32, 128 * 3 * 224 * 224
    assert [at_a_time(n, gpu) for n in (cifar, 4 * cifar, large)] == [8, 5, 1]
    # Their draws are those of committed results.
    assert at_a_time(cifar, CPU) == 1
