"""A split of a data set, and the way of its images to the device.

Images stay uint8 and in one place: a memory map that all processes of a machine share, or one copy
in each process on its GPU. What does not fit there is sent in batches, made ahead by threads.
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

from trainables.datasets.decode import Encoded

# Of a device's free memory, or of a machine's whole memory: the rest is for training.
_SHARE = 0.4
# Training and validation, and as many of another set or split.
_KEPT = 4
# What was copied (kept too, so that no other object has its id) and the copy, the oldest first.
_copies: dict[tuple[int, torch.device], tuple[object, Tensor]] = {}


class Batch(Protocol):
    """Images of a batch, uint8 (B, C, H, W): a tensor, or a `Selection` of one."""

    @property
    def shape(self) -> torch.Size: ...

    @property
    def device(self) -> torch.device: ...

    def split(self, size: int, /) -> Iterable[Tensor]:
        """The images in their order, `size` at a time; the next may overwrite the last."""


@dataclass(frozen=True, eq=False)
class Selection:
    """`images[rows]`, copied in parts as they are asked for: a part stays in a CPU's caches."""

    images: Tensor
    rows: Tensor

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *self.images.shape[1:]))

    @property
    def device(self) -> torch.device:
        return self.images.device

    def split(self, size: int, /) -> Iterator[Tensor]:
        held = self.images.new_empty((min(size, len(self.rows)), *self.images.shape[1:]))
        for rows in torch.split(self.rows, size):
            yield torch.index_select(self.images, 0, rows, out=held[: len(rows)])


def stored(images: Batch) -> tuple[Tensor, Tensor]:
    """Images (M, C, H, W), and which of them the batch's are (B,): those of a tensor are all."""
    if isinstance(images, Selection):
        return images.images, images.rows
    (whole,) = images.split(images.shape[0])
    return whole, torch.arange(len(whole), device=whole.device)


@dataclass(frozen=True, eq=False)
class Split:
    """Some images of a store, and their labels. Treat all three tensors as read-only.

    `images` uint8 (M, C, H, W) is the whole store, `rows` int64 (N,) says which of its images are
    in this split, `labels` int64 (N,) are theirs: the split's image i is `images[rows[i]]`.
    """

    images: Tensor
    rows: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def resident(self, device: torch.device) -> Split:
        """The same split with its tensors on `device`, or itself where they cannot all be there.

        Uploaded once a process: the next trial of a warm worker gets the same tensors. A split
        that uses most of its store shares the store's copy with others; rows stay as they are.
        A split of less than half of it has a copy of its own, and its rows are 0 to N - 1.
        """
        if device.type == "cpu" or self.images.device.type == device.type:
            return self
        whole = 2 * len(self) >= len(self.images)
        key = self.images if whole else self
        copy = _copies.get((id(key), device))
        if copy is None:
            wanted = self.images[:1].nbytes * (len(self.images) if whole else len(self))
            if wanted > _SHARE * torch.cuda.mem_get_info(device)[0]:
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
        """Images uint8 (B, C, H, W) and labels (B,) on `device`, of the split's images `order`.

        `order` int64 (n,) has indices from 0 to N - 1; the last batch holds what is left.
        """
        for batch, labels in self.selections(order, batch_size, device):
            (images,) = batch.split(batch_size)
            yield images, labels

    def selections(
        self, order: Tensor, counts: int | Sequence[int], device: torch.device
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Yield the same as `batches`, without a copy of images that are at hand.

        `counts` is the size of every batch but the last, or that of each.
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
        """Batches made by as many threads as the trial has, each one batch at a time."""
        pinned = device.type == "cuda"
        threads = torch.get_num_threads()
        waiting: deque[Future[tuple[Tensor, Tensor]]] = deque()

        def make(index: Tensor) -> tuple[Tensor, Tensor]:
            # A pinned buffer comes from torch's own pool, which waits for copies under way.
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
    """A split whose images are decoded each time they are asked for; `batches` is the only way.

    `images` holds none of them, (0, C, H, W), and `rows` count in `encoded`.
    """

    encoded: Encoded

    def resident(self, device: torch.device) -> Split:
        return self

    def _at_hand(self, device: torch.device) -> bool:
        return False

    def _fill(self, out: Tensor, rows: Tensor) -> None:
        self.encoded.fill(out, rows.tolist())


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
