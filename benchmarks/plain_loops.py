"""Training loops without samtune, for comparison: a plain one, and a bare one.

The plain loop is what most people write. The bare loop finds its inputs ready on the device and
only runs the compiled network, so it shows the highest throughput that the network can reach.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trainables.models import build
from trainables.split import Split

SHAPE = (3, 32, 32)
CLASSES = 10


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


def plain(
    variant: str,
    model: str,
    split: Split,
    batch: int,
    epochs: int,
    *,
    gpu: bool,
    workers: int,
    after_first: Callable[[], object] = lambda: None,
) -> list[float]:
    """Train by a DataLoader, autocast and `.item()` once an epoch; return the epochs' ends."""
    device = torch.device("cuda" if gpu else "cpu")
    network, base = _built(model, device)
    sam = CommonSAM(base) if variant == "sam" else None
    loader = DataLoader(
        _Images(split),
        batch,
        shuffle=True,
        num_workers=workers,
        pin_memory=gpu,
        persistent_workers=workers > 0,
    )
    loss_fn, ends = nn.CrossEntropyLoss(), list[float]()
    for _ in range(epochs):
        total = torch.zeros((), device=device)
        for images, labels in loader:
            inputs = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            targets = labels.to(device, non_blocking=True)

            def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
                base.zero_grad()
                with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
                    loss = loss_fn(network(inputs), targets)
                loss.backward()
                return loss.detach()

            if sam is None:
                total += closure()
                base.step()
            else:
                total += sam.step(closure)
        total.item()
        if not ends:
            after_first()
        ends.append(time.perf_counter())
    return ends


def bare(model: str, split: Split, batch: int, epochs: int, *, gpu: bool) -> list[float]:
    """Train by SGD on whole batches that lie on the device; return the epochs' ends.

    The network is compiled on a GPU.
    """
    device = torch.device("cuda" if gpu else "cpu")
    network, base = _built(model, device)
    forward = torch.compile(network) if gpu else network
    images = split.images[split.rows].to(device).float().sub_(120).div_(60)
    inputs = images.to(memory_format=torch.channels_last).split(batch)
    labels = split.labels.to(device).split(batch)
    steps = [pair for pair in zip(inputs, labels, strict=True) if len(pair[1]) == batch]
    loss_fn, ends = nn.CrossEntropyLoss(), list[float]()
    for _ in range(epochs):
        for pixels, targets in steps:
            base.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
                loss = loss_fn(forward(pixels), targets)
            loss.backward()
            base.step()
        loss.item()
        ends.append(time.perf_counter())
    return ends


def _built(model: str, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.backends.cudnn.benchmark = device.type == "cuda"
    network = build(model, SHAPE, CLASSES, 0).to(device, memory_format=torch.channels_last)
    rates = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    return network, torch.optim.SGD(network.parameters(), fused=device.type == "cuda", **rates)
