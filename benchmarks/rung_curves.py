"""Train the full curves that `benchmarks.rungs` replays, without early stopping.

`python -m benchmarks.rung_curves` takes about ten CPU-minutes in one process of one thread.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from samtune.search.proposals import Proposals
from samtune.space.search_space import SearchSpace, resolve
from samtune.trial import Seeds, TrialConfig, running

TABLE = Path(__file__).with_name("results") / "rung-curves.parquet"
SCHEMA = pa.schema(
    [
        *[(name, pa.int16()) for name in ("seed", "trial", "epoch", "n_val")],
        *[(name, pa.float64()) for name in ("lr", "rho", "weight_decay")],
        *[(name, pa.float64()) for name in ("used", "val_acc", "train_loss", "test_acc")],
    ]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train every configuration of every seed, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rung_curves", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=27, help="configurations a seed")
    parser.add_argument("--per-trial", type=float, default=20, help="SGD-epoch equivalents")
    parser.add_argument("--to", type=Path, default=TABLE, metavar="FILE")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    started, rows = time.process_time(), []
    for seed in range(1, chosen.seeds + 1):
        words = [
            *("search.method=random", f"search.seed={seed}"),
            *(f"budget.trials={chosen.trials}", f"budget.per_trial={chosen.per_trial}"),
        ]
        rows += _curves(SearchSpace.load("sam", words), seed)
        print(f"seed {seed}: {time.process_time() - started:.0f} CPU-s so far", flush=True)
    metadata = {
        "samtune.cpu_seconds": f"{time.process_time() - started:.1f}",
        "samtune.per_trial": f"{chosen.per_trial:g}",
        "samtune.torch": torch.__version__,
        "samtune.python": platform.python_version(),
        "samtune.space": "sam, search.method=random",
    }
    table = pa.Table.from_pylist(rows, SCHEMA.with_metadata(metadata))
    pq.write_table(table, chosen.to, compression="zstd")
    print(f"wrote {chosen.to}: {len(rows)} reports")


def _curves(space: SearchSpace, seed: int) -> list[dict[str, Any]]:
    trainable, rows = resolve(space.trainable), []
    for proposal in iter(Proposals(space).ask, None):
        config = TrialConfig(
            trainable=space.trainable,
            variant=space.variant,
            base=space.base,
            knobs=proposal.knobs,
            task={word: value for word, value in space.task.items() if word != "split_seed"},
            budget=space.trial_budget,
            # Split, weights and batches differ between seeds, as they do between sweeps.
            seeds=Seeds(seed, seed, seed),
            # No rule sees the test split. It shows whether a missed trial was really better.
            test_permit="benchmarks.rungs",
        )
        reports: list[dict[str, Any]] = []
        with running(config, reports.append):
            trainable(config)
        knobs = {name: proposal.knobs[name] for name in ("lr", "rho", "weight_decay")}
        rows += [
            {
                **knobs,
                "seed": seed,
                "trial": proposal.number,
                "epoch": report["epoch"],
                "used": report["used"],
                "n_val": report["facts"]["n_val"],
                "val_acc": report["metrics"]["val_acc"],
                "train_loss": report["metrics"]["train_loss"],
                "test_acc": report["metrics"].get("test_acc"),
            }
            for report in reports
        ]
    return rows


if __name__ == "__main__":
    main()
