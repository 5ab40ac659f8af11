"""Sizes of the parts of a batch, and the least that BatchNorm can normalise."""

from __future__ import annotations

from collections.abc import Iterable

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


def least_samples(modules: Iterable[nn.Module], *, of_process: bool) -> int:
    """Return the smallest part that the modules can train on: 2 with BatchNorm, otherwise 1.

    With `of_process`, of the samples of one process: layers that use those of all processes have
    a `process_group`, as torch's SyncBatchNorm does.
    """
    normalises = any(
        module.training
        and "batchnorm" in type(module).__name__.lower()
        and not (of_process and hasattr(module, "process_group"))
        for module in modules
    )
    return 2 if normalises else 1
