"""Processes that train at once on one device: `python -m benchmarks.loop --side-by-side K`.

Each trains by the shipped loop with a share of the GPU, as a trial of a sweep does. All wait for
each other after their first epoch, which warms up. What they train together from then on is
counted until one of them has only its last epoch left.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np

from benchmarks import plain_loops
from benchmarks.real_trial import Size, epochs, images
from samtune.cluster.mps import daemon
from samtune.cluster.orphans import ended_with_us
from samtune.cluster.scratch import scratch_folder
from samtune.record.folder import RunError

# The first one to compile holds up all others.
_LONGEST_S = 900.0

_barrier: Barrier


def measure(
    count: int, size: Size, gpus: float, workers: int, task: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the rows of SAM's trials: one alone, `count` that take turns, and `count` by MPS.

    The plain loop has no MPS, which somebody would have to start for it.
    """
    rows = []
    for loop, words in (("samtune", dict(task)), ("DataLoader", {})):
        row = {"loop": loop, "variant": "sam", **words}
        alone = 0.0
        for way, at_once in (("itself", 1), ("turns", count)):
            ends = _ends(at_once, loop, size, gpus / at_once, workers, words, {})
            found = rate(ends, size.train)
            alone = alone or found
            shown = {"images_per_s": found, "of_alone": found / alone}
            rows.append({**row, "at_once": at_once, "way": way, **shown})
    alone = rows[0]["images_per_s"]
    by_mps = {"loop": "samtune", "variant": "sam", **task, "at_once": count, "way": "mps"}
    try:
        found = _by_mps(count, size, gpus, workers, task)
    except RunError as error:
        return [*rows, {**by_mps, "missing": str(error)}]
    return [*rows, {**by_mps, "images_per_s": found, "of_alone": found / alone}]


def _by_mps(count: int, size: Size, gpus: float, workers: int, task: Mapping[str, Any]) -> float:
    """Raises RunError where there is no MPS."""
    if not gpus:
        raise RunError("MPS is for GPUs")
    with (
        scratch_folder() as folder,
        ended_with_us(str(folder)),
        daemon(gpus / count, folder) as settings,
    ):
        ends = _ends(count, "samtune", size, gpus / count, workers, task, settings)
    return rate(ends, size.train)


def rate(ends: list[list[float]], images: int) -> float:
    """Return the images per second of all processes while each of them trains.

    Args:
        ends: Of each process, the seconds at which its epochs ended, on one clock.
        images: Of an epoch.

    Raises:
        RuntimeError: One had ended before another began.
    """
    begin, end = max(each[0] for each in ends), min(each[-1] for each in ends)
    if end <= begin:
        raise RuntimeError("no two of the processes trained at the same time")
    epochs = sum(
        float(np.diff(np.interp([begin, end], each, range(len(each))))[0]) for each in ends
    )
    return epochs * images / (end - begin)


def _ends(
    count: int,
    loop: str,
    size: Size,
    share: float,
    workers: int,
    task: Mapping[str, Any],
    settings: Mapping[str, str],
) -> list[list[float]]:
    """Train in so many new processes at once, and return when the epochs of each ended."""
    # Its children have imported torch, and have not used CUDA.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.side_by_side", "torch._dynamo"])
    with ProcessPoolExecutor(
        count, context, initializer=_meet, initargs=(context.Barrier(count),)
    ) as pool:
        words = (loop, size, share, workers, dict(task), dict(settings))
        return [each.result() for each in [pool.submit(_train, *words) for _ in range(count)]]


def _meet(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _train(
    loop: str,
    size: Size,
    share: float,
    workers: int,
    task: dict[str, Any],
    settings: dict[str, str],
) -> list[float]:
    """Train in this process, and return when the epochs ended."""
    os.environ.update(settings)
    data = images(size)

    def together() -> None:
        _barrier.wait(_LONGEST_S)

    if loop == "samtune":
        ends, _ = epochs("sam", size, data, share, together, **task)
        return [each["at"] for each in ends]
    return plain_loops.plain(
        *("sam", size.model, data.train, size.batch, size.epochs),
        gpu=share > 0,
        workers=workers,
        after_first=together,
    )
