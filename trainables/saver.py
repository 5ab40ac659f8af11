"""Checkpoints that are written behind the training: the next epoch begins meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy as shallow
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables import checkpoint

Send = Callable[[checkpoint.Saved | None], None]
Pair = tuple[Tensor, Tensor]
"""A tensor and its copy on the host."""

_PACK = 256 << 20
"""Bytes of a pack, and so of the GPU's memory that a checkpoint takes; a larger tensor is one."""


class Saver:
    """Writes the checkpoints of a trial in a thread, and sends each one's report after it.

    `settle` sends a report from the training thread, once its checkpoint is on disk. So the record
    never has a report without its checkpoint, and the training waits for the disk only if that is
    a whole epoch behind. Close it at the end of the trial.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: tuple[Future[checkpoint.Saved], Send] | None = None

    def start(self, epoch: int, state: dict[str, Any], send: Send) -> None:
        """Begin to write `state` as it is now; `send` then gets the checkpoint."""
        self.settle(wait=True)
        arriving = [held(state)]

        def write() -> checkpoint.Saved:
            # Popped, so that the memory is free for the next copy once this returns.
            return checkpoint.save(self._folder, epoch, arriving.pop()())

        self._writing = self._pool.submit(write), send

    def settle(self, *, wait: bool) -> None:
        """Send the report of the last checkpoint if it is on disk, or `wait` for that.

        Raises:
            OSError: The disk is full or not writable.
        """
        if self._writing is None or not (wait or self._writing[0].done()):
            return
        writing, send = self._writing
        self._writing = None
        send(writing.result())

    def close(self) -> None:
        """Wait for the thread. A checkpoint without a report stays, for the next attempt."""
        self._pool.shutdown()


def held(state: Any) -> Callable[[], Any]:
    """Copy the tensors of nested dicts, lists and tuples to the host as they are now.

    The host does not wait for a GPU. Its tensors are packed there, and a pack is one copy to
    pinned memory. Work that is queued later cannot change them.

    Returns:
        A function that waits for the copies and returns the copied state.
    """
    pairs: dict[int, Pair] = {}
    copied = _copied(state, pairs)
    for tensor, copy in pairs.values():
        if not tensor.is_cuda:
            copy.copy_(tensor)
    packs = [_Pack(group) for group in _groups(pairs.values())]
    on_host = torch.cuda.Event() if packs else None
    if on_host is not None:
        on_host.record()

    def arrived() -> Any:
        if on_host is not None:
            on_host.synchronize()
        for pack in packs:
            pack.unpack()
        return copied

    return arrived


def _groups(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Yield the tensors of a GPU in groups of one dtype and at most `_PACK` bytes."""
    group: list[Pair] = []
    size = 0
    of_gpu = [pair for pair in pairs if pair[0].is_cuda]
    for tensor, copy in sorted(of_gpu, key=lambda pair: str(pair[0].dtype)):
        size += tensor.nbytes
        if group and (size > _PACK or tensor.dtype != group[0][0].dtype):
            yield group
            group, size = [], tensor.nbytes
        group.append((tensor, copy))
    if group:
        yield group


class _Pack:
    """Tensors of a GPU on their way to the host.

    Args:
        pairs: a tensor of the GPU and one of the host of its shape, which `unpack` fills; all of
            them have one dtype.
    """

    def __init__(self, pairs: list[Pair]) -> None:
        # A tensor whose dimensions have the order of its memory can be read as one run.
        orders = [sorted(range(t.dim()), key=t.stride, reverse=True) for t, _ in pairs]
        ordered = [
            (t.permute(order), copy.permute(order))
            for (t, copy), order in zip(pairs, orders, strict=True)
        ]
        packed = torch.cat([t.reshape(-1) for t, _ in ordered])
        self._copies = [copy for _, copy in ordered]
        self._pinned = torch.empty_like(packed, device="cpu", pin_memory=True)
        self._pinned.copy_(packed, non_blocking=True)

    def unpack(self) -> None:
        """Fill the tensors of the host, once the copy is there."""
        parts = self._pinned.split([copy.numel() for copy in self._copies])
        for copy, part in zip(self._copies, parts, strict=True):
            copy.copy_(part.view(copy.shape))


def _copied(tree: Any, pairs: dict[int, Pair]) -> Any:
    """Return a copy of a tree with new, empty tensors of the host.

    Args:
        tree: nested dicts, lists and tuples.
        pairs: gets each tensor of the tree with its new one, by the id of the tensor.
    """
    if isinstance(tree, Tensor):
        if id(tree) not in pairs:
            new = torch.empty_like(tree, device="cpu", requires_grad=False)
            pairs[id(tree)] = tree.detach(), new
        return pairs[id(tree)][1]
    if isinstance(tree, dict):
        # A module's state has an attribute beside its entries.
        copied = shallow(tree)
        copied.update((key, _copied(value, pairs)) for key, value in tree.items())
        return copied
    if isinstance(tree, list | tuple):
        return type(tree)([_copied(value, pairs) for value in tree])
    return tree
