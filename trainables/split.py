"""A split of a data set, and how its images get to the device.

Images stay uint8 and in one place: a memory map that all processes of a machine share, or one copy
per process on its GPU. Images that do not fit there are sent in batches, made ahead by threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainables.datasets.decode import Crops, Encoded

# Share of a trial's memory on a device, or of a machine's; the rest is for training.
_SHARE = 0.4
# Copies to keep: training and validation, and as many of another set or split.
_KEPT = 4
# The copied object (kept, so that no other object gets its id) and the copy, the oldest first.
_copies: dict[tuple[int, torch.device], tuple[object, Tensor]] = {}


def sent(t: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on `device`. The host does not wait for the copy."""
    # A copy from pageable memory would wait until the device has done all that is queued.
    return t.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else t.to(device)


class Batch(Protocol):
    """The images of a batch, uint8 (B, C, H, W): a tensor, or a `Selection` of one."""

    @property
    def shape(self) -> torch.Size:
        """The shape (B, C, H, W)."""

    @property
    def device(self) -> torch.device:
        """The device of the images."""

    def split(self, size: int, /) -> Iterable[Tensor]:
        """Yield the images in order, `size` at a time; each yield may overwrite the last."""


@dataclass(frozen=True, eq=False)
class Selection:
    """The images `images[rows]`, copied part by part on demand: a part stays in a CPU's caches."""

    images: Tensor
    rows: Tensor

    @property
    def shape(self) -> torch.Size:
        """The shape (B, C, H, W)."""
        return torch.Size((len(self.rows), *self.images.shape[1:]))

    @property
    def device(self) -> torch.device:
        """The device of the images."""
        return self.images.device

    def split(self, size: int, /) -> Iterator[Tensor]:
        """Yield the images in order, `size` at a time; each yield overwrites the last."""
        held = self.images.new_empty((min(size, len(self.rows)), *self.images.shape[1:]))
        for rows in torch.split(self.rows, size):
            yield torch.index_select(self.images, 0, rows, out=held[: len(rows)])


def stored(images: Batch) -> tuple[Tensor, Tensor]:
    """Return a store of images (M, C, H, W) and the rows (B,) of it that are the batch's."""
    if isinstance(images, Selection):
        return images.images, images.rows
    (whole,) = images.split(images.shape[0])
    return whole, torch.arange(len(whole), device=whole.device)


@dataclass(frozen=True, eq=False)
class Split:
    """A selection of a store's images with labels. Treat all three tensors as read-only.

    Attributes:
        images: The whole store, uint8 of shape (M, C, H, W).
        rows: The rows of the store that are in this split, int64 of shape (N,): image i of the
            split is `images[rows[i]]`.
        labels: The labels of the split's images, int64 of shape (N,).
    """

    images: Tensor
    rows: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def resident(self, device: torch.device, share: float = 1.0) -> Split:
        """Return the split with its tensors on `device`, or itself if they do not fit there.

        Images are uploaded once per process: the next trial of a worker gets the same tensors. A
        split of at least half of its store shares the store's copy with other splits. A smaller
        split has its own copy, and its rows are then 0 to N - 1.

        Args:
            device: The device of the trial.
            share: The trial's share of the device, 0 to 1. Its data takes part of that share.
        """
        if device.type == "cpu" or self.images.device.type == device.type:
            return self
        whole = 2 * len(self) >= len(self.images)
        key = self.images if whole else self
        copy = _copies.get((id(key), device))
        if copy is None:
            wanted = self.images[:1].nbytes * (len(self.images) if whole else len(self))
            free, total = torch.cuda.mem_get_info(device)
            if wanted > _SHARE * min(free, share * total):
                return self
            images = self.images if whole else self.images.index_select(0, self.rows)
            while len(_copies) >= _KEPT:
                _copies.pop(next(iter(_copies)))
            copy = _copies[id(key), device] = key, images.to(device)
        rows = self.rows if whole else torch.arange(len(self))
        return Split(copy[1], rows.to(device), self.labels.to(device))

    def batches(
        self, order: Tensor, batch_size: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images uint8 (B, C, H, W) and labels (B,) of batches on a device.

        Args:
            order: Indices of the split's images, 0 to N - 1, int64 of shape (n,).
            batch_size: The images per batch; the last batch holds the rest.
            device: The device of the batches.
        """
        for batch, labels in self.selections(order, batch_size, device):
            (images,) = batch.split(batch_size)
            yield images, labels

    def selections(
        self, order: Tensor, counts: int | Sequence[int], device: torch.device
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Yield the same as `batches`, without a copy of images that are on the device.

        Args:
            order: Indices of the split's images, 0 to N - 1, int64 of shape (n,).
            counts: The size of every batch but the last, or that of each.
            device: The device of the batches.
        """
        order = order.to(self.rows.device)
        indices = torch.split(order, counts if isinstance(counts, int) else list(counts))
        if self._at_hand(device):
            for index in indices:
                rows = self.rows.index_select(0, index)
                yield Selection(self.images, rows), self.labels.index_select(0, index)
        else:
            yield from self._ahead(indices, device)

    def _at_hand(self, device: torch.device) -> bool:
        if self.images.device.type != device.type:
            return False
        return device.type != "cpu" or self.images.nbytes <= _SHARE * _memory()

    def _ahead(
        self, indices: Iterable[Tensor], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches that are made by as many threads as the trial has, one batch each."""
        pinned = device.type == "cuda"
        threads = torch.get_num_threads()
        waiting: deque[Future[tuple[Tensor, Tensor]]] = deque()

        def make(index: Tensor) -> tuple[Tensor, Tensor]:
            # A pinned buffer comes from torch's own pool, which waits for copies in progress.
            shape = (len(index), *self.images.shape[1:])
            images = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
            self._fill(images, self.rows[index])
            labels = self.labels[index]
            return images, labels.pin_memory() if pinned else labels

        def sent() -> tuple[Tensor, Tensor]:
            images, labels = waiting.popleft().result()
            return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

        pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
        try:
            for index in indices:
                waiting.append(pool.submit(make, index))
                if len(waiting) > threads + 1:
                    yield sent()
            while waiting:
                yield sent()
        finally:
            pool.shutdown(cancel_futures=True)

    def _fill(self, out: Tensor, rows: Tensor) -> None:
        torch.index_select(self.images, 0, rows, out=out)


@dataclass(frozen=True, eq=False)
class Streamed(Split):
    """A split that decodes its images anew for each batch.

    Its `images` are an empty tensor of shape (0, C, H, W).

    Attributes:
        encoded: The encoded images; `rows` are the rows of these.
        crops: Random parts to take of them; None takes each as a whole, or its middle.
    """

    encoded: Encoded
    crops: Crops | None = None

    def resident(self, device: torch.device, share: float = 1.0) -> Split:
        """Return the split itself: its images are decoded on the CPU."""
        return self

    def _at_hand(self, device: torch.device) -> bool:
        return False

    def _fill(self, out: Tensor, rows: Tensor) -> None:
        self.encoded.fill(out, rows.tolist(), self.crops)


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
