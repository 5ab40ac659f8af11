"""Checkpoints that are written behind the training: the next epoch begins meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy as shallow
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables import checkpoint

Send = Callable[[checkpoint.Saved | None], None]


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
        copied = [held(state)]
        on_host = torch.cuda.Event() if torch.cuda.is_initialized() else None
        if on_host is not None:
            on_host.record()

        def write() -> checkpoint.Saved:
            if on_host is not None:
                on_host.synchronize()
            # Popped, so that the memory is free for the next copy once this returns.
            return checkpoint.save(self._folder, epoch, copied.pop())

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


def held(state: Any) -> Any:
    """Return a copy of nested dicts, lists and tuples, with its tensors on the host.

    The host does not wait for a GPU: the copies to pinned memory are queued there. Work that is
        queued later cannot change them.
    """
    return _copied(state, {})


def _copied(tree: Any, copies: dict[int, Tensor]) -> Any:
    """Return the copy; `copies` has those of the tensors met so far, by their id."""
    if isinstance(tree, Tensor):
        if id(tree) not in copies:
            copies[id(tree)] = _on_host(tree)
        return copies[id(tree)]
    if isinstance(tree, dict):
        # A module's state has an attribute beside its entries.
        new = shallow(tree)
        new.update((key, _copied(value, copies)) for key, value in tree.items())
        return new
    if isinstance(tree, list | tuple):
        return type(tree)([_copied(value, copies) for value in tree])
    return tree


def _on_host(t: Tensor) -> Tensor:
    pinned = t.device.type == "cuda"
    # In the order of the original's memory, so that the copy is one run of bytes.
    host = torch.empty_like(t, device="cpu", pin_memory=pinned, requires_grad=False)
    return host.copy_(t.detach(), non_blocking=pinned)
