"""A trial on several processes: the part of each batch that a rank has, and their exchange.

The ranks hold equal weights. They draw the same order and the same augmentation, each takes its
part of every batch, and `GradientOracle(ddp=...)` averages the gradients by samples. The steps are
those of one process with the whole batch. Methods marked "collective" communicate: all ranks of a
trial call them in the same order.
"""

from __future__ import annotations

import dataclasses
import datetime
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.errors import SamtuneError
from samtune.optimizers import sizes
from trainables.split import Split

# This is for a network that hangs. If a process or a node is lost, Ray ends the rank much earlier.
_PATIENCE = datetime.timedelta(minutes=10)


class RankError(SamtuneError):
    """Ranks of a trial with different weights."""


@dataclass(frozen=True)
class RankShare:
    """The part of a batch that a rank computes.

    Attributes:
        rows: its samples.
        count: samples of the whole batch.
        copies: ranks that compute these samples: 1, or all where the batch is too small to share.
    """

    rows: slice
    count: int
    copies: int

    @property
    def size(self) -> int:
        """The number of its samples."""
        stop: int = self.rows.stop
        return stop - int(self.rows.start)


class Ranks:
    """The processes of one trial, as the process number `rank` sees them.

    The group is None for a trial on one process. Numbers and states travel over gloo on the CPU,
    so that no step waits for the device.
    """

    def __init__(self, rank: int, size: int, group: dist.ProcessGroup | None) -> None:
        self.rank = rank
        self.size = size
        self.group = group

    @classmethod
    @contextmanager
    def joined(cls, workers: int) -> Iterator[Ranks]:
        """Join the group that the environment describes in torchrun's variables, then leave it.

        An exception in one rank ends the waiting of the others, because it closes their
        connections.
        """
        if workers == 1:
            yield ALONE
            return
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
        try:
            yield cls(dist.get_rank(), workers, dist.group.WORLD)
        finally:
            dist.destroy_process_group()

    def share(self, count: int) -> RankShare:
        """Return this rank's part of a batch of `count` samples, neighbours and nearly equal.

        A batch with fewer than two samples per rank, the least for BatchNorm, is computed whole by
        every rank.
        """
        if count < 2 * self.size:
            return RankShare(slice(0, count), count, self.size)
        parts = sizes.even(count, self.size)
        start = sum(parts[: self.rank])
        return RankShare(slice(start, start + parts[self.rank]), count, 1)

    def total(self, *mine: float) -> list[float]:
        """Return the sums over the ranks. Collective."""
        if self.group is None:
            return list(mine)
        sums = torch.tensor(mine, dtype=torch.float64)
        dist.all_reduce(sums, group=self.group)
        return sums.tolist()

    def first(self, value: float) -> float:
        """Return rank 0's value. Collective."""
        return self.total(value if self.rank == 0 else 0.0)[0]

    def joint(self, mine: Tensor) -> Tensor:
        """Return the rows of all ranks in rank order. Collective."""
        if self.group is None:
            return mine
        counts = [0] * self.size
        counts[self.rank] = len(mine)
        lengths = [int(n) for n in self.total(*counts)]
        padded = mine.new_zeros((max(lengths), *mine.shape[1:]))
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def states(self, mine: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the state of each rank, tensors and plain values. Collective."""
        if self.group is None:
            return [mine]
        raw = _packed(mine)
        lengths = [0] * self.size
        lengths[self.rank] = len(raw)
        cuts = torch.tensor([int(n) for n in self.total(*lengths)])
        return [_unpacked(part) for part in torch.split(self.joint(raw), cuts.tolist())]

    def broadcast(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return rank 0's state. Collective."""
        return self.states(state if self.rank == 0 else {})[0]

    def check_equal(self, model: nn.Module) -> None:
        """Raise RankError unless all ranks hold the same weights, bit by bit. Collective."""
        if self.group is None:
            return
        words = {2: torch.int16, 4: torch.int32, 8: torch.int64}
        prints = [
            p.detach().view(words[p.element_size()]).sum(dtype=torch.int64)
            for p in model.parameters()
        ]
        mine = torch.stack(prints).cpu().view(1, -1)
        if not (self.joint(mine) == mine).all():
            raise RankError(
                f"the {self.size} processes of this trial no longer hold equal weights; "
                "is the model drawn from the init seed alone?"
            )

    def average_buffers(self, model: nn.Module) -> None:
        """Replace floating-point buffers, those of local BatchNorm, by their mean. Collective."""
        if self.group is None:
            return
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer, group=self.group)
                buffer /= self.size


ALONE = Ranks(0, 1, None)
"""A trial on one process."""


def part_of(split: Split, ranks: Ranks) -> Split:
    """Return the part of a split that this rank evaluates, all of it where it is not shared."""
    if ranks.size == 1 or len(split) < ranks.size:
        return split
    rows = ranks.share(len(split)).rows
    return dataclasses.replace(split, rows=split.rows[rows], labels=split.labels[rows])


def _packed(state: dict[str, Any]) -> Tensor:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _unpacked(raw: Tensor) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(
        io.BytesIO(raw.numpy().tobytes()), map_location="cpu", weights_only=True
    )
    return state
