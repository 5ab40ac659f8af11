"""The aims of the GPU path, compared with the figures of `benchmarks.loop`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

STEP = 2.05
"""The most SGD steps that may take as long as one SAM step."""
OF_BARE = 0.6
"""The least share of the bare loop's throughput."""
TRIALS = 5.0
"""The least ratio of trials per hour to those of the plain loop."""


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each aim for which the rows have figures."""
    rows = [row for row in rows if "images_per_s" in row]
    single = [row for row in rows if not row.get("way")]
    speed = {(r["loop"], task_of(r), r["variant"]): r for r in single}
    for loop, task, variant in speed:
        if variant == "sam" and (sgd := speed.get((loop, task, "sgd"))):
            steps = speed[loop, task, "sam"]["step_ms"] / sgd["step_ms"]
            yield f"aim: a SAM step is at most {STEP} SGD steps: {loop} {task} {steps:.2f}"
    if bare := speed.get(("bare", "eager", "sgd")):
        for (loop, task, variant), row in speed.items():
            if loop == "samtune":
                # Each of SAM's images makes two passes.
                passes = row["images_per_s"] * (2 if variant == "sam" else 1)
                share = passes / bare["images_per_s"]
                aim = f"at least {OF_BARE:.0%} of the bare loop's passes"
                yield f"aim: {aim}: {loop} {task} {variant} {share:.0%}"
    yield from _trials([row for row in rows if row["variant"] == "sam"])


def _trials(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Compare the best way to run SAM's trials on the device with the plain loop's best way."""
    ours, plain = (
        max(
            (row for row in rows if row["loop"] == loop),
            key=lambda row: float(row["images_per_s"]),
            default=None,
        )
        for loop in ("samtune", "DataLoader")
    )
    if ours and plain:
        times = ours["images_per_s"] / plain["images_per_s"]
        yield (
            f"aim: at least {TRIALS:g} times the trials an hour of the plain loop: {times:.2f} "
            f"(samtune {_how(ours)}; DataLoader {_how(plain)})"
        )


def _how(row: dict[str, Any]) -> str:
    how = f"{row['at_once']} by {row['way']}" if row.get("way") else "one at a time"
    return f"{how}, {task_of(row)}"


def task_of(row: dict[str, Any]) -> str:
    """Return how a row's steps are made: eager, or the task's word for it."""
    return next((word for word in ("compile", "graph") if row.get(word)), "eager")
