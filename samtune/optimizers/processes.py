"""Exchange between processes that share a batch."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from samtune.optimizers.tensors import Gradients, alike


@dataclass(frozen=True)
class Processes:
    """A process group, or None for a single process.

    All processes of the group call the same methods in the same order.
    """

    group: dist.ProcessGroup | None

    @property
    def alone(self) -> bool:
        """True if there is only one process."""
        return self.group is None

    def average_(self, tensors: Gradients, samples: int) -> None:
        """Average the tensors over the processes, weighted by their samples, in place."""
        if self.alone:
            return
        for group in alike(t for t in tensors if t is not None):
            dtype = torch.promote_types(group[0].dtype, torch.float32)
            count = torch.full((), samples, dtype=dtype, device=group[0].device)
            dist.all_reduce(count, group=self.group)
            torch._foreach_mul_(group, samples / count)
            flat = torch.cat([t.reshape(-1) for t in group])
            dist.all_reduce(flat, group=self.group)
            parts = torch.split(flat, [t.numel() for t in group])
            averages = [part.view(t.shape) for part, t in zip(parts, group, strict=True)]
            torch._foreach_copy_(group, averages)

    def most_(self, value: Tensor) -> None:
        """Replace the value by the largest of all processes."""
        if not self.alone:
            dist.all_reduce(value, dist.ReduceOp.MAX, self.group)

    def sizes(self, mine: int, device: torch.device) -> list[int]:
        """Return the number of each process, in rank order; waits for the device if not alone."""
        if self.alone:
            return [mine]
        found = torch.zeros(dist.get_world_size(self.group), dtype=torch.int64, device=device)
        found[dist.get_rank(self.group)] = mine
        dist.all_reduce(found, group=self.group)
        return [int(n) for n in found.tolist()]

    def first(self, wanted: int, mine: int, device: torch.device) -> tuple[int, int]:
        """Return how many of the first `wanted` samples this process has, and the most of any one.

        Waits for the device if not alone.
        """
        sizes = self.sizes(mine, device)
        before = itertools.accumulate(sizes, initial=0)
        counts = [min(max(wanted - b, 0), n) for b, n in zip(before, sizes, strict=False)]
        return counts[0 if self.alone else dist.get_rank(self.group)], max(counts)

    def joined(self, mine: Tensor) -> tuple[Tensor, slice]:
        """Return the values of all processes, shape (n,), and the slice of this process.

        Waits for the device if not alone.
        """
        if self.alone:
            return mine, slice(0, len(mine))
        sizes = self.sizes(len(mine), mine.device)
        first = sum(sizes[: dist.get_rank(self.group)])
        own = slice(first, first + len(mine))
        of_all = mine.new_zeros(sum(sizes))
        of_all[own] = mine
        dist.all_reduce(of_all, group=self.group)
        return of_all, own

    def largest(self, scores: Tensor, share: float, least: int, least_own: int) -> Tensor:
        """Return which of this process's scores are among the ceil(share n) largest of all n.

        Waits for the device if not alone.

        Args:
            scores: one number per sample of this process, shape (b,).
            share: from 0 to 1.
            least: how many are chosen of all at least.
            least_own: how many are chosen of this process at least, unless none is.
        """
        of_all, own = self.joined(scores)
        count = max(min(least, len(of_all)), math.ceil(share * len(of_all)))
        places: Tensor = of_all.topk(count).indices
        if self.alone:
            return places
        places = places[(places >= own.start) & (places < own.stop)] - own.start
        least_own = min(least_own, len(scores))
        return scores.topk(least_own).indices if 0 < len(places) < least_own else places
