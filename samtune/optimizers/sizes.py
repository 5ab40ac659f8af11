"""Sizes of the parts of a batch, and the least that BatchNorm can normalise."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from torch import nn


def even(samples: int, count: int) -> list[int]:
    """Return the sizes of `count` parts, as equal as possible."""
    each, extra = divmod(samples, count)
    return [each + (part < extra) for part in range(count)]


def at_most(size: int, samples: int, least: int) -> list[int]:
    """Return the sizes of parts of `size` samples and a rest.

    A rest below `least` joins the part before it.
    """
    if size >= samples:
        return [samples]
    whole, rest = divmod(samples, max(size, least))
    parts = [max(size, least)] * whole
    if rest >= least or not parts:
        return [*parts, rest]
    parts[-1] += rest
    return parts


def most_parts(count: int, samples: int, least: int) -> int:
    """Return how many parts of at least `least` samples there can be, `count` at most."""
    return max(1, min(count, samples // least))


def common_parts(
    count: int, of_all: Sequence[int], own: int, least: int, least_own: int
) -> list[tuple[slice, float]]:
    """Return the parts of a process's samples, with each part's share of those of all processes.

    Args:
        count: the number of parts at most; every process has the same number.
        of_all: the samples of each process.
        own: the samples of this process.
        least: the least samples that a part has in all processes together.
        least_own: the least samples that it has in each.
    """
    count = most_parts(min(count, *of_all), sum(of_all), least)
    count = min(most_parts(count, n, least_own) for n in of_all)
    splits = [even(n, count) for n in of_all]
    samples = [sum(part) for part in zip(*splits, strict=True)]
    ends = list(itertools.accumulate(even(own, count), initial=0))
    return [
        (slice(*ends_of), n / sum(of_all))
        for ends_of, n in zip(itertools.pairwise(ends), samples, strict=True)
    ]


def least_samples(modules: Iterable[nn.Module], *, of_process: bool) -> int:
    """Return the smallest part that the modules can train on: 2 with BatchNorm, otherwise 1.

    With `of_process`, of the samples of one process: layers that use those of all processes have
    a `process_group`, as torch's SyncBatchNorm does.
    """
    normalises = any(
        module.training
        and any("batchnorm" in kind.__name__.lower() for kind in type(module).__mro__)
        and not (of_process and hasattr(module, "process_group"))
        for module in modules
    )
    return 2 if normalises else 1
