"""Measure the cost of a leaderboard of 10^5 and 10^6 trials, ten reports each.

    python -m benchmarks.scale_board

The tables are made up: 22 spaces, each with five repeats of its best trial. `python -m analysis`
runs in a process of its own, so times and peak memory include Python's start and all imports. The
benchmark prints a table and writes benchmarks/results/scale-board.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.environment import environment
from benchmarks.one_process import cost
from samtune.record import tables

_RESULT = Path(__file__).parent / "results" / "scale-board.json"
_SPACES, _REPORTS, _REPEATS = 22, 10, 5
_AT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
_ROW = {
    **{"run": "big", "study": 0, "search": 0, "base_optimizer": "sgd", "dataset": "digits"},
    **{"model": "small_cnn", "label_noise": 0.4, "augment": "none", "task": "{}"},
    **{"metric": "val_acc", "mode": "max", "budget_kind": "compute", "budget_max": 20.0},
    **{"state": "completed", "see": 20.0, "train_s": 1.0},
}
_TRIAL = {
    **{"stage": "search", "search_alg": "tpe", "scheduler": "asha 8 x 2", "origin": "sampled"},
    **{"knobs_searched": '["lr"]', "started_at": _AT, "samtune_version": "0"},
    **{"seed_init": 1, "seed_order": 1, "seed_split": 1, "epochs_done": _REPORTS},
    **{"steps_done": 160, "fwd_samples": 1, "bwd_samples": 1, "eval_s": 1.0, "data_s": 1.0},
    **{"wall_s": 1.0, "attempts": 1, "epochs_repeated": 0},
}
_REPORT = {"run": "big", "stage": "search", "attempt": 0, "superseded": False, "reported_at": _AT}


def make_tables(folder: Path, trials: int) -> None:
    """Write the tables of a run of about `trials` trials."""
    length = trials // _SPACES
    about = {"samtune.run": "big", "samtune.version": "0"}
    typed = tables.schema("trials", knobs={"lr": [0.1]})
    tables.write(folder / "trials.parquet", typed, _trials(typed, length), about)
    typed = tables.schema("curves")
    tables.write(folder / "curves.parquet", typed, _curves(typed, length), about)
    draw = np.random.default_rng(1)
    repeats = [
        {
            **_ROW,
            **{"space": f"v{space}", "variant": f"v{space}", "rank_in_search": 0, "n_test": 500},
            **{"source_trial_key": f"{space:04x}{0:012x}", "config_sha": "c"},
            **{"seed_bundle": bundle, "test_openings": 1, "test_acc": draw.uniform(0.9, 0.95)},
        }
        for space in range(_SPACES)
        for bundle in range(_REPEATS)
    ]
    tables.write(folder / "repeats.parquet", tables.schema("repeats"), repeats, about)


def _trials(typed: pa.Schema, length: int) -> Iterator[pa.RecordBatch]:
    draw = np.random.default_rng(0)
    for space in range(_SPACES):
        columns: dict[str, Any] = {k: [v] * length for k, v in (_ROW | _TRIAL).items()}
        columns |= {"space": [f"v{space}"] * length, "variant": [f"v{space}"] * length}
        columns |= {"trial": np.arange(length), "val_acc": draw.random(length)}
        columns["trial_key"] = columns["config_sha"] = _keys(space, length)
        knobs = draw.random(length)
        columns["config_json"] = [f'{{"base":"sgd","knobs":{{"lr":{lr}}}}}' for lr in knobs]
        columns = {k: pa.array(v, typed.field(k).type) for k, v in columns.items()}
        yield tables.batch(typed, length, columns | {"knob.lr": pa.array(knobs)})


def _curves(typed: pa.Schema, length: int) -> Iterator[pa.RecordBatch]:
    draw = np.random.default_rng(0)
    count = length * _REPORTS
    for space in range(_SPACES):
        columns: dict[str, Any] = {
            name: pa.repeat(pa.scalar(value, typed.field(name).type), count)
            for name, value in _REPORT.items()
        }
        epochs = np.tile(np.arange(1, _REPORTS + 1), length)
        columns |= {"epoch": pa.array(epochs), "used": pa.array(2.0 * epochs)}
        columns["val_acc"] = pa.array(draw.random(count))
        columns["trial_key"] = pa.array(np.repeat(_keys(space, length), _REPORTS))
        yield tables.batch(typed, count, columns)


def _keys(space: int, length: int) -> list[str]:
    return [f"{space:04x}{number:012x}" for number in range(length)]


def main() -> None:
    parser = argparse.ArgumentParser(description="What a leaderboard of many trials costs.")
    parser.add_argument("--trials", type=int, nargs="+", default=[100_000, 1_000_000])
    options = parser.parse_args()
    about = environment("pyarrow", "pandas")
    rows = []
    for trials in options.trials:
        with tempfile.TemporaryDirectory() as scratch:
            # In a process of its own, because a child's peak memory starts at that of its parent.
            made = os.fork()
            if not made:
                make_tables(Path(scratch), trials)
                os._exit(0)
            os.waitpid(made, 0)
            board = str(Path(scratch, "board.parquet"))
            command = ["-m", "analysis", scratch, "-o", board]
            row = {"trials": trials, "reports": trials * _REPORTS, **cost(*command)}
        rows.append(row)
        print(
            f"{trials:8} trials {row['reports']:9} reports {row['wall_s']:7.2f} s"
            f"{row['cpu_s']:7.2f} CPU-s {row['peak_mb']:6.0f} MiB",
            flush=True,
        )
    result = {"environment": about, "rows": rows}
    _RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(_RESULT)


if __name__ == "__main__":
    main()
