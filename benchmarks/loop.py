"""Images per second of a real trial, and where its time goes: `python -m benchmarks.loop`.

A trial of the shipped loop trains a ResNet-18 on random images of CIFAR-10's size, by SGD and by
SAM. Steps, batches, evaluation and checkpoints are timed apart. The peer, in the same process and
on the same images, is a plain PyTorch loop: torchvision's transforms in a DataLoader, the same
network, and the common SAM wrapper with its two closures. A GPU's figures need a GPU: on the CPU
the network is the small CNN, and the figures say that it runs.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.environment import environment
from samtune.trial import Budget, Seeds, TrialConfig, running
from trainables import loop, vision
from trainables.data import TrainVal
from trainables.models import build
from trainables.split import Split

CLASSES = 10
SHAPE = (3, 32, 32)


@dataclass(frozen=True)
class Size:
    """What is trained: the network, the images of an epoch, the epochs and the batch."""

    model: str
    train: int
    val: int
    epochs: int
    batch: int


FULL = Size("resnet18", 45_000, 5_000, 4, 128)
QUICK = Size("resnet18", 5_120, 1_000, 3, 128)
SMALL = Size("small_cnn", 128, 64, 3, 64)
"""Of the CPU, in the gate."""


def images(size: Size) -> TrainVal:
    """Random images in place of a data set, so that no file is needed."""
    draw = torch.Generator().manual_seed(0)
    count = size.train + size.val
    store = torch.randint(256, (count, *SHAPE), dtype=torch.uint8, generator=draw)
    labels = torch.randint(CLASSES, (count,), generator=draw)
    rows = torch.arange(count)
    train, val = slice(0, size.train), slice(size.train, count)
    mean, std = torch.full((3,), 120.0), torch.full((3,), 60.0)
    splits = (Split(store, rows[part], labels[part]) for part in (train, val))
    return TrainVal(*splits, CLASSES, mean, std, "random", "none")


def trial(variant: str, size: Size, data: TrainVal, gpus: float, **task: Any) -> dict[str, Any]:
    """Time a real trial between its first epoch, which warms up, and its last."""
    trainable = getattr(vision, variant)
    ends: list[dict[str, Any]] = []
    saved, patched = [0.0], (loop.load, loop.Trial._save, loop.Trial._epoch)
    _, save, epoch = patched

    def timed_save(*words: Any) -> None:
        begun = time.perf_counter()
        save(*words)
        saved[0] += time.perf_counter() - begun

    def timed_epoch(self: loop.Trial) -> bool:
        finite = epoch(self)
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

        reports: list[dict[str, Any]] = []
        loop.load = lambda task, seed: data
        loop.Trial._save, loop.Trial._epoch = timed_save, timed_epoch
        try:
            with running(config, reports.append):
                trainable(config)
        finally:
            loop.load, loop.Trial._save, loop.Trial._epoch = patched
    # The last epoch waits for the disk, which the others do not.
    first, last = ends[0], ends[-2]
    epochs = size.epochs - 2
    spent = {word: (last[word] - first[word]) / epochs for word in ("train_s", "data_s", "eval_s")}
    wall = (last["at"] - first["at"]) / epochs
    steps = (last["step"] - first["step"]) / epochs
    return {
        "loop": "samtune",
        "variant": variant,
        **task,
        "images_per_s": size.train / wall,
        "epoch_s": wall,
        "step_ms": 1000 * (spent["train_s"] + spent["data_s"]) / steps,
        "eval_s": spent["eval_s"],
        "checkpoint_s": (last["saved"] - first["saved"]) / epochs,
        "peak_gpu_mb": reports[-1]["metrics"]["peak_gpu_mb"],
    }


class _Images(Dataset[tuple[Tensor, int]]):
    """The images through torchvision's transforms, one at a time."""

    def __init__(self, split: Split) -> None:
        from torchvision import transforms

        self._split = split
        self._change = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.47,) * 3, (0.24,) * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._split.images[self._split.rows[index]]
        return self._change(image), int(self._split.labels[index])


class CommonSAM:
    """SAM as most people have it: a norm over parameters one by one, and weights put back."""

    def __init__(self, base: torch.optim.Optimizer, rho: float = 0.05) -> None:
        self._base = base
        self._rho = rho

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """Make both passes, and return the loss of the first."""
        loss = closure()
        weights = [p for g in self._base.param_groups for p in g["params"] if p.grad is not None]
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in weights]).norm() + 1e-12
            old = [p.clone() for p in weights]
            for p in weights:
                p.add_(p.grad * (self._rho / norm))
        closure()
        with torch.no_grad():
            for p, was in zip(weights, old, strict=True):
                p.copy_(was)
        self._base.step()
        return loss


def peer(variant: str, size: Size, data: TrainVal, gpus: float, workers: int) -> dict[str, Any]:
    """Time the plain loop: a DataLoader, autocast, `.item()` once an epoch."""
    device = torch.device("cuda" if gpus else "cpu")
    model = build(size.model, SHAPE, CLASSES, 0).to(device, memory_format=torch.channels_last)
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    sam = CommonSAM(base) if variant == "sam" else None
    loader = DataLoader(
        _Images(data.train),
        size.batch,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    loss_fn, ends = nn.CrossEntropyLoss(), []
    for _ in range(size.epochs):
        total = torch.zeros((), device=device)
        for batch, labels in loader:
            inputs = batch.to(device, memory_format=torch.channels_last, non_blocking=True)
            targets = labels.to(device, non_blocking=True)

            def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
                base.zero_grad()
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    loss = loss_fn(model(inputs), targets)
                loss.backward()
                return loss.detach()

            if sam is None:
                total += closure()
                base.step()
            else:
                total += sam.step(closure)
        total.item()
        ends.append(time.perf_counter())
    wall = (ends[-1] - ends[0]) / (size.epochs - 1)
    return {
        "loop": "DataLoader",
        "variant": variant,
        "images_per_s": size.train / wall,
        "epoch_s": wall,
        "step_ms": 1000 * wall / len(loader),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return one line a row, with SAM's step over SGD's of the same loop."""
    words = ("images_per_s", "epoch_s", "step_ms", "eval_s", "checkpoint_s")
    lines = ["loop        variant  task     " + "".join(f"{w:>14}" for w in words)]
    for row in rows:
        task = next((word for word in ("compile", "graph") if row.get(word)), "eager")
        shown = "".join(f"{row[w]:14.4g}" if w in row else f"{'-':>14}" for w in words)
        lines.append(f"{row['loop']:12}{row['variant']:9}{task:9}{shown}")
    for name in ("samtune", "DataLoader"):
        eager = [row for row in rows if row["loop"] == name and not _words(row)]
        of = {row["variant"]: row["step_ms"] for row in eager}
        if {"sgd", "sam"} <= of.keys():
            lines.append(f"{name}: a SAM step is {of['sam'] / of['sgd']:.2f} SGD steps")
    return "\n".join(lines)


def _words(row: dict[str, Any]) -> set[str]:
    return {"compile", "graph"} & row.keys()


def measure(size: Size, gpus: float, workers: int, words: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of the table; `words` are task words to set, one at a time."""
    data = images(size)
    tasks: list[dict[str, Any]] = [{}, *({word: True} for word in words)]
    rows = [trial(v, size, data, gpus, **task) for task in tasks for v in ("sgd", "sam")]
    return rows + [peer(v, size, data, gpus, workers) for v in ("sgd", "sam")]


@click.command()
@click.option("--quick", is_flag=True, help="Fewer images.")
@click.option("--small", is_flag=True, help="A small CNN, as on the CPU.")
@click.option("--compile", "compiled", is_flag=True, help="Also with task.compile.")
@click.option("--graph", is_flag=True, help="Also with task.graph, which needs a GPU.")
@click.option("--workers", default=4, show_default=True, help="Of the peer's DataLoader.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Also write this file.")
def main(
    quick: bool, small: bool, compiled: bool, graph: bool, workers: int, file: Path | None
) -> None:
    """Measure the loop on the device at hand."""
    gpu = torch.cuda.is_available()
    size = SMALL if small or not gpu else QUICK if quick else FULL
    words = [word for word, on in (("compile", compiled), ("graph", graph)) if on]
    rows = measure(size, float(gpu), workers, words)
    print(table(rows))
    if file is not None:
        file.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
