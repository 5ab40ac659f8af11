"""The saving of a study's race, and how often it loses the best row: simulated studies.

Each simulated study has 22 rows and five searches. A row has a true accuracy; each search adds the
spread between searches (`tau`), each seed bundle a noise that all rows share in part (`rho`), as
measured on the digits. After each search `samtune.api.race.left_out` decides on two select values
per search, as in a study. Run: python -m benchmarks.race

With `--table digits-table.parquet` the rows are real: 22 configurations of finished trials, three
searches that each read validation on two of six bundles. The best row is that with the best mean
on test over all eight bundles.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.environment import environment
from samtune.api.race import left_out, scores
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace

RESULT = Path(__file__).parent / "results" / "race.json"
ROWS, SEARCHES, SEEDS, KEEP = 22, 5, 2, 3
# Standard deviation of a validation accuracy over seeds.
SEED_SD = 0.015
# Validation images of the table's trials.
N_VAL = 297
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


def on_table(path: Path, studies: int) -> Iterator[dict[str, float | str]]:
    """Yield the same figures for real rows: of each variant, and of both together."""
    trials = pq.read_table(path).to_pandas()
    trials["val"] = trials["val_acc"].str[-1]
    val, test = (
        trials.pivot(index=["variant", "config"], columns="seed", values=name).dropna()
        for name in ("val", "test_acc")
    )
    for number, variants in enumerate((["sgd"], ["sam"], ["sgd", "sam"])):
        draw = np.random.default_rng(number)
        rows = val.index[val.index.get_level_values("variant").isin(variants)]
        found = []
        for _ in range(studies):
            own = rows[draw.choice(len(rows), ROWS, replace=False)]
            bundles = draw.permutation(val.columns)[: 3 * SEEDS]
            best = str(int(np.argmax(test.loc[own].mean(axis=1))))
            found.append(_raced(val.loc[own, bundles].to_numpy(), best))
        yield {
            "rows": " and ".join(variants),
            "studies": studies,
            "best_lost": float(np.mean([lost for lost, _ in found])),
            "searches_saved": float(np.mean([saved for _, saved in found])),
        }


def _raced(values: NDArray[np.float64], best: str) -> tuple[bool, float]:
    """Return the result of `study` for values (rows, seeds); each search adds `SEEDS` columns."""
    out: set[str] = set()
    saved = 0
    for seen in range(SEEDS, values.shape[1] + 1, SEEDS):
        saved += len(out)
        racing = {
            str(row): own[:seen].tolist() for row, own in enumerate(values) if str(row) not in out
        }
        out |= left_out(racing, KEEP, N_VAL)
    return best in out, saved / (len(values) * (values.shape[1] // SEEDS))


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
    parser.add_argument("--table", type=Path, help="digits-table.parquet: race its rows instead.")
    parser.add_argument("--run", type=Path, help="The folder of a study to replay instead.")
    asked = parser.parse_args()
    if asked.run is not None:
        print(json.dumps(replayed(asked.run)))
        return
    found = []
    for row in (
        cells(asked.studies) if asked.table is None else on_table(asked.table, asked.studies)
    ):
        found.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    result = {"environment": environment(), "cells": found}
    if asked.table is not None:
        # Beside the made-up boards of the last run.
        result = json.loads(asked.output.read_text()) | {"table": result}
    asked.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
