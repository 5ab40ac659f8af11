"""Processes that train at once on one device: `python -m benchmarks.loop --side-by-side K`.

Each trains by the shipped loop with a share of the GPU, as a trial of a sweep does. All wait for
each other after their first epoch, which warms up. From then on their images are counted, until
one of them has only its last epoch left.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError
from typing import Any

import numpy as np

from benchmarks import plain_loops
from benchmarks.real_trial import Size, epochs, images
from benchmarks.tried import tried
from samtune.cluster.mps import daemon
from samtune.cluster.orphans import ended_with_us
from samtune.cluster.scratch import scratch_folder
from samtune.record.folder import RunError

# The first one to compile holds up all others.
_LONGEST_S = 900.0

_barrier: Barrier
_Ends = Callable[..., list[list[float]]]


def measure(
    count: int, size: Size, gpus: float, workers: int, tasks: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the rows of SAM's trials: one alone, `count` that take turns, and `count` by MPS.

    The plain loop has no MPS, which somebody would have to start for it.
    """
    rows: list[dict[str, Any]] = []
    for loop, task in (*(("samtune", task) for task in tasks), ("DataLoader", {})):
        train = partial(_ends, loop, size, gpus, workers, dict(task))
        ways = [("itself", 1, train), ("turns", count, train)]
        if loop == "samtune":
            ways.append(("mps", count, partial(_by_mps, train, gpus)))
        row = {"loop": loop, "variant": "sam", **task}
        measured = [
            tried({**row, "at_once": at_once, "way": way}, partial(_figure, size, ends, at_once))
            for way, at_once, ends in ways
        ]
        alone = measured[0].get("images_per_s")
        for each in measured:
            if alone and "images_per_s" in each:
                each["of_alone"] = each["images_per_s"] / alone
        rows += measured
    return rows


def _figure(size: Size, ends: _Ends, count: int) -> dict[str, float]:
    return {"images_per_s": rate(ends(count), size.train)}


def _by_mps(train: _Ends, gpus: float, count: int) -> list[list[float]]:
    """Train by MPS on shares of a GPU. Raise RunError where there is none."""
    if not gpus:
        raise RunError("MPS is for GPUs")
    with (
        scratch_folder() as folder,
        ended_with_us(str(folder)),
        daemon(gpus / count, folder) as settings,
    ):
        return train(count, settings)


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
    loop: str,
    size: Size,
    gpus: float,
    workers: int,
    task: Mapping[str, Any],
    count: int,
    settings: Mapping[str, str] | None = None,
) -> list[list[float]]:
    """Train in so many new processes at once, and return when the epochs of each ended."""
    # Its children have imported torch, and have not used CUDA.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.side_by_side", "torch._dynamo"])
    with ProcessPoolExecutor(
        count, context, initializer=_meet, initargs=(context.Barrier(count),)
    ) as pool:
        words = (loop, size, gpus / count, workers, dict(task), dict(settings or {}))
        runs = [pool.submit(_train, *words) for _ in range(count)]
        for error in [run.exception() for run in runs]:
            # A broken barrier only says that another process has failed.
            if error is not None and not isinstance(error, BrokenBarrierError):
                raise error
        return [run.result() for run in runs]


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
    together = partial(_barrier.wait, _LONGEST_S)
    try:
        if loop == "samtune":
            ends, _ = epochs("sam", size, data, share, together, **task)
            return [each["at"] for each in ends]
        words = ("sam", size.model, data.train, size.batch, size.epochs)
        return plain_loops.plain(*words, gpu=share > 0, workers=workers, after_first=together)
    except BaseException:
        _barrier.abort()
        raise
