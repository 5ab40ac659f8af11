"""What the race of a study saves, and how often it loses the best row: simulated studies.

Each simulated study has 22 rows and five searches. A row has a true accuracy; each search adds the
spread between searches (`tau`), each seed bundle a noise that all rows share in part (`rho`), as
measured on the digits. After each search `samtune.api.race.left_out` decides on two select values
per search, as in a study. Run: python -m benchmarks.race
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.environment import environment
from samtune.api.race import left_out, scores
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace

RESULT = Path(__file__).parent / "results" / "race.json"
ROWS, SEARCHES, SEEDS, KEEP = 22, 5, 2, 3
# In accuracy: seed sd of a validation reading, and the spread of the rows' true accuracies.
SEED_SD = 0.015
CELLS = [
    {"tau": tau, "rho": rho, "spread": spread}
    for tau in (0.004, 0.01)
    for rho in (0.0, 0.7)
    for spread in (0.0, 0.01, 0.03)
]


def study(draw: np.random.Generator, tau: float, rho: float, spread: float) -> tuple[bool, float]:
    """Return whether the best row was left out, and the share of the searches that were saved."""
    true = 0.93 - spread * np.abs(draw.standard_normal(ROWS))
    best = str(int(np.argmax(true)))
    values: dict[str, list[float]] = {str(row): [] for row in range(ROWS)}
    out: set[str] = set()
    saved = 0
    for _ in range(SEARCHES):
        shared = draw.standard_normal(SEEDS)
        effect = tau * draw.standard_normal(ROWS)
        own = draw.standard_normal((ROWS, SEEDS))
        noise = SEED_SD * (np.sqrt(rho) * shared + np.sqrt(1 - rho) * own)
        saved += len(out)
        for row in values.keys() - out:
            values[row] += (true[int(row)] + effect[int(row)] + noise[int(row)]).tolist()
        racing = {row: found for row, found in values.items() if row not in out}
        out |= left_out(racing, KEEP)
    return best in out, saved / (ROWS * SEARCHES)


def cells(studies: int) -> Iterator[dict[str, float]]:
    """Yield a row per cell: how many studies lost the best row, and what they saved."""
    for number, cell in enumerate(CELLS):
        draw = np.random.default_rng(number)
        found = [study(draw, **cell) for _ in range(studies)]
        yield {
            **cell,
            "studies": studies,
            "best_lost": float(np.mean([lost for lost, _ in found])),
            "searches_saved": float(np.mean([saved for _, saved in found])),
        }


def replayed(folder: Path) -> dict[str, float]:
    """Return what a race would have left out of a study that was run without one."""
    with Record.open(folder.parent, folder.name, read_only=True) as record:
        studies = record.studies()
        spaces = [SearchSpace.from_text(s.space, s.name, s.name) for s in studies]
        # The smaller budget is that of the question that all rows share.
        budget = min(space.budget.per_trial for space in spaces)
        members = [k for k, space in enumerate(spaces) if space.budget.per_trial == budget]
        out: set[str] = set()
        saved = 0
        for search in sorted({spaces[k].member.search for k in members}):
            before = [k for k in members if spaces[k].member.search < search]
            values = scores(
                record, [studies[k] for k in before if spaces[k].row not in out], spaces
            )
            out |= left_out(values, KEEP)
            saved += len(out)
        return {"searches": len(members), "saved": saved, "rows_left_out": len(out)}


def main() -> None:
    """Simulate, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--studies", type=int, default=200, help="Simulated studies per cell.")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--run", type=Path, help="The folder of a study to replay instead.")
    asked = parser.parse_args()
    if asked.run is not None:
        print(json.dumps(replayed(asked.run)))
        return
    found = []
    for row in cells(asked.studies):
        found.append(row)
        print("  ".join(f"{name} {value:g}" for name, value in row.items()), flush=True)
    result = {"environment": environment(), "cells": found}
    asked.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
