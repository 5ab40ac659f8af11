"""Measure the CPU time of a training batch, with samtune's and with torchvision's transforms.

Each image is cropped at random, flipped, cut out and normalised. The benchmark prints a table for
images of 32 x 32 and of 64 x 64. With `--json` it also writes every number to a file. README.md
explains the columns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2

from benchmarks.environment import environment
from benchmarks.timing import interleaved
from trainables.allocator import keep_freed_memory
from trainables.augment import Augment, Normaliser
from trainables.data import Split, load

BATCH = 128
_MADE_BEFORE = 4
OURS = "samtune, resident"
PIL = "torchvision v1 on PIL images, 0 workers"


class Cutout:
    """A transform that blanks a square of half the side of one normalised image (C, H, W)."""

    def __call__(self, image: Tensor) -> Tensor:
        side = image.shape[1]
        y, x = torch.randint(side, (2,)).tolist()
        rows = slice(max(0, y - side // 4), y + side // 4)
        columns = slice(max(0, x - side // 4), x + side // 4)
        image[:, rows, columns] = 0
        return image


class Pictures(Dataset[tuple[Tensor, int]]):
    """Single images and labels, as torchvision's data sets give them."""

    def __init__(self, split: Split, transform: Callable[[Any], Tensor], as_pil: bool) -> None:
        self.images = split.images.permute(0, 2, 3, 1).numpy().copy() if as_pil else split.images
        self.labels = split.labels.tolist()
        self.transform = transform
        self.as_pil = as_pil

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.images[i]) if self.as_pil else self.images[i]
        return self.transform(image), self.labels[i]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--images", type=int, default=2560, help="in a round; default: 2560")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    # As in a trial, and for all contenders.
    keep_freed_memory()
    images, what = _images(chosen.images)
    results: dict[str, Any] = {
        "environment": environment("torch", "torchvision", "pillow", "numpy"),
        "threads": torch.get_num_threads(),
        "images": what,
        "per_round": len(images),
        "batch_size": BATCH,
        "cpu_ms_per_1000_images": {},
    }
    for side in (32, 64):
        sized = images
        if side != images.shape[-1]:
            sized = F.interpolate(images.float(), side, mode="bilinear").round().to(torch.uint8)
        runs = contenders(sized)
        seconds = interleaved(
            {name: partial(cpu_seconds, run) for name, run in runs.items()}, chosen.rounds
        )
        results["cpu_ms_per_1000_images"][str(side)] = _table(side, seconds, len(images))
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
        print(f"wrote {chosen.json}")


Epoch = Callable[[], Iterator[Tensor]]


def contenders(images: Tensor) -> dict[str, Epoch]:
    """Return by name an epoch over the images (N, 3, S, S), as an iterable of its batches."""
    count, side = len(images), images.shape[-1]
    split = Split(images, torch.arange(count), torch.arange(count) % 10)
    mean = images.double().mean(dim=(0, 2, 3)).float()
    std = images.double().std(dim=(0, 2, 3)).float()
    pad, of_one = side // 8, ((mean / 255).tolist(), (std / 255).tolist())
    on_pil = v1.Compose(
        [
            *(v1.RandomCrop(side, padding=pad), v1.RandomHorizontalFlip()),
            *(v1.ToTensor(), v1.Normalize(*of_one), Cutout()),
        ]
    )
    on_tensors = v2.Compose(
        [
            *(v2.RandomCrop(side, padding=pad), v2.RandomHorizontalFlip()),
            *(v2.ToDtype(torch.float32, scale=True), v2.Normalize(*of_one), Cutout()),
        ]
    )
    augment = Augment("cutout", Normaliser(mean, std), seed=1)
    device = torch.device("cpu")

    def ours() -> Iterator[Tensor]:
        augment.start(1)
        order = torch.from_numpy(np.random.default_rng(1).permutation(count))
        for batch, _ in split.selections(order, BATCH, device):
            yield augment(batch)

    def theirs(pictures: Pictures, workers: int) -> Iterator[Tensor]:
        # A fork server, the default of newer Pythons, would be the parent of the workers, so their
        # CPU time would not count here.
        how = "fork" if workers else None
        yield from (
            batch
            for batch, _ in DataLoader(
                pictures, BATCH, shuffle=True, num_workers=workers, multiprocessing_context=how
            )
        )

    v1_pictures = Pictures(split, on_pil, as_pil=True)
    v2_pictures = Pictures(split, on_tensors, as_pil=False)
    return {
        OURS: ours,
        PIL: partial(theirs, v1_pictures, 0),
        "torchvision v1 on PIL images, 2 workers": partial(theirs, v1_pictures, 2),
        "torchvision v2 on tensors, 0 workers": partial(theirs, v2_pictures, 0),
        "torchvision v2 on tensors, 2 workers": partial(theirs, v2_pictures, 2),
    }


def cpu_seconds(epoch: Epoch) -> float:
    """Return the CPU seconds of an epoch in this process and in its workers, which have ended.

    In training an epoch follows another one of the same contender. Here it follows one of another
    contender, which has filled the caches. That contender's forked workers also cause page faults
    at the next writes. So the first batches are made once before and not counted.
    """
    for _ in islice(epoch(), _MADE_BEFORE):
        pass
    before = _used()
    for _ in epoch():
        pass
    return _used() - before


def _used() -> float:
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + workers.ru_utime + workers.ru_stime


def _images(count: int) -> tuple[Tensor, str]:
    """Return uint8 images (count, 3, 32, 32), real ones if SAMTUNE_DATA has them."""
    if folder := os.environ.get("SAMTUNE_DATA"):
        task = {"dataset": f"parquet:{Path(folder, 'cifar10-jpeg').resolve()}"}
        return load(task, 1).train.images[:count].clone(), "CIFAR-10 (JPEG), 64 x 64: enlarged"
    draw = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8), "random"


def _table(side: int, seconds: dict[str, list[float]], count: int) -> dict[str, Any]:
    """Print and return, by contender, the median and the ratios to PIL in the same round."""
    print(f"\n{side} x {side}: CPU-ms per 1,000 images, and PIL's time as a multiple of it")
    found = {}
    for name, took in seconds.items():
        times = [pil / own for pil, own in zip(seconds[PIL], took, strict=True)]
        low, middle, high = (
            quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
        )
        found[name] = {
            "ms": 1e6 * median(took) / count,
            "pil_is_times": [low, middle, high],
            "rounds_s": took,
        }
        ms = 1e6 * median(took) / count
        print(f"{name:42} {ms:8.1f} ms {middle:6.1f} x ({low:.1f} to {high:.1f})")
    return found


if __name__ == "__main__":
    main()
