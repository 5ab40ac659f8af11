"""Error rates of the verdict procedure on simulated boards, through the published functions.

`python -m benchmarks.calibration` simulates 4,000 boards per cell and writes
`results/calibration.json`. A board has K variants on common seed bundles; scores have unit seed
standard deviation and correlation rho at equal bundle. The family error is the share of boards
on which a variant that equals the baseline is called better or worse.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.statistics import (
    over_tasks,
    paired,
    power,
    rank_sets,
    until_decided,
    verdicts,
)
from benchmarks.environment import environment

RESULT = Path(__file__).with_name("results") / "calibration.json"
BOARDS = 4000
NOISES = ("gaussian", "skewed", "unequal")
CORRELATIONS = (0.0, 0.3, 0.7)
VARIANTS = (3, 8, 22)
FIXED = (5, 10)
LONGEST = 20
# A margin of zero never calls a tie, so that every board can go wrong.
_NO_MARGIN = 0.0


def board(
    rng: np.random.Generator, noise: str, correlation: float, variants: int, seeds: int
) -> NDArray[np.float64]:
    """Return scores of equal true mean, shape (variants, seeds)."""

    def draw(shape: tuple[int, ...]) -> NDArray[np.float64]:
        if noise == "skewed":
            return rng.exponential(size=shape) - 1
        return rng.standard_normal(shape)

    own, shared = draw((variants, seeds)), draw((seeds,))
    scores = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
    if noise == "unequal":
        scores *= np.geomspace(0.5, 2.0, variants)[:, None]
    return scores


def named(scores: NDArray[np.float64]) -> dict[str, list[float]]:
    """Return the rows by name; the first row is the baseline."""
    return {f"v{k}": row for k, row in enumerate(scores.tolist())}


def family_errors(noise: str, correlation: float, variants: int, boards: int) -> dict[str, float]:
    """Return the family error of each plan, and the least coverage of a row's ranks, of one cell.

    All variants are equal, so every rank is true for every row.
    """
    rng = np.random.default_rng([NOISES.index(noise), round(100 * correlation), variants])
    wrong = dict.fromkeys([*(f"fixed {n}" for n in FIXED), "until decided"], 0)
    covered = np.zeros(variants)
    for _ in range(boards):
        scores = named(board(rng, noise, correlation, variants, LONGEST))
        for n in FIXED:
            words = verdicts({k: v[:n] for k, v in scores.items()}, "v0", None, _NO_MARGIN)
            wrong[f"fixed {n}"] += any(word in {"better", "worse"} for word in words.values())
        found = until_decided(scores, "v0", None, _NO_MARGIN)
        wrong["until decided"] += any(word in {"better", "worse"} for word, _ in found.values())
        sets = rank_sets({k: v[: FIXED[0]] for k, v in scores.items()}, None)
        covered += [ranks == (1, variants) for ranks in sets.values()]
    shares = {plan: count / boards for plan, count in wrong.items()}
    return shares | {"least rank coverage": float(covered.min()) / boards}


def seen_power(lead: float, seeds: int, alpha: float, boards: int) -> dict[str, float]:
    """Return the simulated and the computed power of one paired comparison."""
    rng = np.random.default_rng([round(100 * lead), seeds, round(1e4 * alpha)])
    decided = 0
    for _ in range(boards):
        d = rng.standard_normal(seeds) + lead
        decided += paired(d.tolist(), [0.0] * seeds, None, _NO_MARGIN).p <= alpha
    return {"simulated": decided / boards, "computed": power(lead, 1.0, seeds, alpha)}


def task_coverage(tasks: int, seeds: int, boards: int) -> float:
    """Return the coverage of the mean over tasks by `over_tasks`, sds from 0.5 to 2."""
    rng = np.random.default_rng([tasks, seeds])
    sds = np.geomspace(0.5, 2.0, tasks)
    inside = 0
    for _ in range(boards):
        truth = rng.standard_normal(tasks)
        diffs = [
            (mean + sd * rng.standard_normal(seeds)).tolist()
            for mean, sd in zip(truth, sds, strict=True)
        ]
        _, lo, hi, _ = over_tasks(diffs)
        inside += lo <= truth.mean() <= hi
    return inside / boards


def cells(boards: int) -> dict[str, Callable[[], Any]]:
    """Return every cell of the benchmark by name, not yet computed."""
    families = {
        f"{noise}, rho {rho:g}, {k} variants": partial(family_errors, noise, rho, k, boards)
        for noise in NOISES
        for rho in CORRELATIONS
        for k in VARIANTS
    }
    powers = {
        f"power at {lead:g} sd, {n} seeds, alpha {alpha:.4f}": partial(
            seen_power, lead, n, alpha, boards
        )
        for lead in (0.5, 1.0, 1.5)
        for n in (5, 10, 20)
        for alpha in (0.05, 0.05 / 21)
    }
    coverage = {
        f"coverage over {tasks} tasks, {n} seeds": partial(task_coverage, tasks, n, boards)
        for tasks in (3, 4, 6)
        for n in (3, 5, 10)
    }
    return families | powers | coverage


def measure(boards: int) -> dict[str, Any]:
    """Compute all cells, one per process at a time."""
    work = cells(boards)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = {name: pool.submit(cell) for name, cell in work.items()}
        return {name: future.result() for name, future in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boards", type=int, default=BOARDS)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    found = measure(arguments.boards)
    error = math.sqrt(0.05 * 0.95 / arguments.boards)
    result = {
        "environment": environment(),
        "boards": arguments.boards,
        "monte_carlo_error": error,
        "cells": found,
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    families = [cell for cell in found.values() if isinstance(cell, dict) and "fixed 5" in cell]
    powers = [cell for cell in found.values() if isinstance(cell, dict) and "computed" in cell]
    coverage = [cell for cell in found.values() if isinstance(cell, float)]
    for plan in ("fixed 5", "fixed 10", "until decided"):
        print(f"largest family error, {plan}: {max(cell[plan] for cell in families):.4f}")
    print(f"bound: {0.05 + 2 * error:.4f}")
    print(f"least rank coverage: {min(c['least rank coverage'] for c in families):.4f}")
    print(
        "largest distance of power: "
        f"{max(abs(c['simulated'] - c['computed']) for c in powers):.4f}"
    )
    print(f"coverage over tasks: {min(coverage):.4f} to {max(coverage):.4f}")


if __name__ == "__main__":
    main()
