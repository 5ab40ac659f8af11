"""A real trial of the shipped loop on random images, timed at the end of each epoch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import plain_loops
from samtune.trial import Budget, Seeds, TrialConfig, running
from trainables import loop, vision
from trainables.data import TrainVal
from trainables.split import Split


@dataclass(frozen=True)
class Size:
    """The size of a trial: its network, the images of an epoch, the epochs and the batch."""

    model: str
    train: int
    val: int
    epochs: int
    batch: int


FULL = Size("resnet18", 45_000, 5_000, 4, 128)
QUICK = Size("resnet18", 5_120, 1_000, 3, 128)
SMALL = Size("small_cnn", 128, 64, 3, 64)
"""For the CPU, and for the tests."""


def images(size: Size) -> TrainVal:
    """Return random images in place of a data set; no file is needed."""
    draw = torch.Generator().manual_seed(0)
    count = size.train + size.val
    store = torch.randint(256, (count, *plain_loops.SHAPE), dtype=torch.uint8, generator=draw)
    labels = torch.randint(plain_loops.CLASSES, (count,), generator=draw)
    rows = torch.arange(count)
    train, val = slice(0, size.train), slice(size.train, count)
    mean, std = torch.full((3,), 120.0), torch.full((3,), 60.0)
    splits = (Split(store, rows[part], labels[part]) for part in (train, val))
    return TrainVal(*splits, plain_loops.CLASSES, mean, std, "random", "none")


def epochs(
    variant: str,
    size: Size,
    data: TrainVal,
    gpus: float,
    after_first: Callable[[], object] = lambda: None,
    **task: Any,
) -> tuple[list[dict[str, float]], list[dict[str, Any]]]:
    """Run a real trial, and return what it had spent at the end of each epoch, and its reports.

    The first epoch warms up. The last one is left out: it waits for the disk, which the others do
    not.
    """
    trainable = getattr(vision, variant)
    ends: list[dict[str, float]] = []
    reports: list[dict[str, Any]] = []
    saved, patched = [0.0], (loop.load, loop.Trial._save, loop.Trial._epoch)
    _, save, epoch = patched

    def timed_save(*words: Any) -> None:
        begun = time.perf_counter()
        save(*words)
        saved[0] += time.perf_counter() - begun

    def timed_epoch(self: loop.Trial) -> bool:
        finite = epoch(self)
        if not ends:
            after_first()
        counters = ("step", "train_s", "data_s", "eval_s")
        spent = {word: getattr(self.meter, word) for word in counters}
        ends.append({**spent, "saved": saved[0], "at": time.perf_counter()})
        return finite

    with tempfile.TemporaryDirectory() as folder:
        config = TrialConfig(
            trainable=f"trainables.vision:{variant}",
            variant=variant,
            base="sgd",
            knobs={},
            task={"model": size.model, "batch_size": size.batch, "augment": "standard", **task},
            budget=Budget("epochs", size.epochs),
            seeds=Seeds(1, 2, 3),
            gpus=gpus,
            checkpoint_dir=folder,
        )
        loop.load = lambda task, seed: data
        loop.Trial._save, loop.Trial._epoch = timed_save, timed_epoch
        try:
            with running(config, reports.append):
                trainable(config)
        finally:
            loop.load, loop.Trial._save, loop.Trial._epoch = patched
    return ends[:-1], reports
