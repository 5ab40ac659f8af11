"""A trial on several processes: what each rank has of a batch, and what all of them know.

The ranks hold equal weights. They draw the same order and the same augmentation, each takes its
part of every batch, and `GradientOracle(ddp=...)` averages the gradients by samples: the steps are
those of one process with the whole batch. All of a trial's processes call the same methods here
in the same order, and a method that talks to the others says so.
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
from trainables.split import Batch, Split

# Ray ends a rank whose process or node is lost long before; this is for a network that hangs.
_PATIENCE = datetime.timedelta(minutes=10)


class RankError(SamtuneError):
    """The ranks of a trial no longer hold equal weights."""


@dataclass(frozen=True)
class Share:
    """What a rank has of a batch of `count` samples: its `rows`.

    A batch with fewer samples than there are ranks is computed whole by each of them; `copies`
    counts them then, and is 1 otherwise.
    """

    rows: slice
    count: int
    copies: int


class Ranks:
    """The processes of one trial, seen from the one of number `rank`; `group` is None for one.

    Numbers and states travel over gloo on the CPU, so that no step waits for the device.
    """

    def __init__(self, rank: int, size: int, group: dist.ProcessGroup | None) -> None:
        self.rank = rank
        self.size = size
        self.group = group

    @classmethod
    @contextmanager
    def joined(cls, workers: int) -> Iterator[Ranks]:
        """Joins the group that the environment tells of, in the words of torchrun, and leaves it.

        An exception in one rank ends the others' waiting: their connections to it are closed.
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

    def share(self, count: int) -> Share:
        """This rank's rows of a batch of `count`: neighbours, as evenly as can be."""
        if count < self.size:
            return Share(slice(0, count), count, self.size)
        each, extra = divmod(count, self.size)
        start = self.rank * each + min(self.rank, extra)
        return Share(slice(start, start + each + (self.rank < extra)), count, 1)

    def batches(
        self, split: Split, order: Tensor, batch_size: int, device: torch.device, *, whole: bool
    ) -> Iterator[tuple[Share, Batch, Tensor]]:
        """As `Split.selections`, with this rank's share of each, or all of each where `whole`."""
        shares = [self.share(len(batch)) for batch in torch.split(order, batch_size)]
        if not whole and self.size > 1:
            mine = zip(torch.split(order, batch_size), shares, strict=True)
            order = torch.cat([batch[share.rows] for batch, share in mine])
            # A later share is never larger than the first: only the last batch is smaller.
            batch_size = shares[0].rows.stop - shares[0].rows.start
        made = split.selections(order, batch_size, device)
        yield from ((share, *batch) for share, batch in zip(shares, made, strict=True))

    def total(self, *mine: float) -> list[float]:
        """Sums over the ranks; all of them ask at the same time."""
        if self.group is None:
            return list(mine)
        sums = torch.tensor(mine, dtype=torch.float64)
        dist.all_reduce(sums, group=self.group)
        return sums.tolist()

    def first(self, value: float) -> float:
        """Rank 0's value; all ask at the same time."""
        return self.total(value if self.rank == 0 else 0.0)[0]

    def joint(self, mine: Tensor) -> Tensor:
        """The rows of all ranks, in their order; all ask at the same time."""
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
        """What each rank gives, tensors and plain values; all ask at the same time."""
        if self.group is None:
            return [mine]
        raw = _packed(mine)
        lengths = [0] * self.size
        lengths[self.rank] = len(raw)
        cuts = torch.tensor([int(n) for n in self.total(*lengths)])
        return [_unpacked(part) for part in torch.split(self.joint(raw), cuts.tolist())]

    def told(self, state: dict[str, Any]) -> dict[str, Any]:
        """Rank 0's state; all ask at the same time."""
        return self.states(state if self.rank == 0 else {})[0]

    def check_equal(self, model: nn.Module) -> None:
        """Raises RankError unless all ranks hold the same weights, bit by bit."""
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
        """Gives all ranks the mean of their floating-point buffers: those of local BatchNorm."""
        if self.group is None:
            return
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer, group=self.group)
                buffer /= self.size


ALONE = Ranks(0, 1, None)
"""A trial on one process."""


def part_of(split: Split, ranks: Ranks) -> Split:
    """The images of a split that this rank evaluates: the split itself where it is not shared."""
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
