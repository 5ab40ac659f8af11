"""Measure the cost of reading a large run with `status`, `trials`, `export` and `leaderboard`.

    python -m benchmarks.scale_tables

The runs are generated in bulk, with rows like those of the shipped task. Each command runs in a
process of its own, so times and peak memory include Python's start and all imports. The benchmark
prints a table and writes benchmarks/results/scale-tables.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import random
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.one_process import cost
from samtune.record.record import Record
from samtune.record.rows import canonical, digest
from samtune.space.search_space import SearchSpace

_RESULT = Path(__file__).parent / "results" / "scale-tables.json"
_GRACE, _FACTOR = 2, 3


def make_run(runs: Path, name: str, trials: int, epochs: int, repeats: int = 5) -> Path:
    """Make a run of one space with `trials` of `epochs` reports each, and return its folder.

    All trials are judged as ASHA would at epochs 2, 6, 18, ...; every tenth one was interrupted
    once and continued.
    """
    space = SearchSpace.load("sam")
    settings = {
        **{"search_alg": "tpe", "scheduler": "asha 2 x 3", "mode": "max", "trials": trials},
        "searched": ["lr", "rho", "weight_decay"],
    }
    study = {
        **{"name": "sam", "variant": "sam", "base": "sgd", "space": space.text},
        **{"sha256": space.sha256, "settings": json.dumps(settings)},
    }
    with Record.create(runs, name, [study]) as record:
        db = record._db
        db.execute("PRAGMA synchronous = OFF")
        with db:
            total = trials + repeats
            db.executemany(
                f"INSERT INTO trials VALUES ({', '.join('?' * 16)})",
                _trials(record.folder, space, trials, total),
            )
            db.executemany(
                "INSERT INTO attempts (trial, attempt, started_at, ended_at, wall_s)"
                " VALUES (?, ?, ?, ?, ?)",
                (
                    (trial, attempt, 1e9, 1e9 + 60.0, 60.0)
                    for trial in range(1, total + 1)
                    for attempt in range(_attempts(trial))
                ),
            )
            db.executemany(
                "INSERT INTO reports VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                _reports(record.folder, total, epochs),
            )
            db.executemany(
                "INSERT INTO decisions VALUES (?, ?, ?, ?, ?)", _decisions(trials, total, epochs)
            )
            db.executemany("INSERT INTO metrics VALUES (?)", _names(db))
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return record.folder


def _names(db: sqlite3.Connection) -> list[tuple[str]]:
    (metrics,) = db.execute("SELECT metrics FROM reports LIMIT 1").fetchone()
    return [(name,) for name in json.loads(metrics)]


def _attempts(trial: int) -> int:
    return 2 if trial % 10 == 0 else 1


def _trials(
    folder: Path, space: SearchSpace, trials: int, total: int
) -> Iterator[tuple[Any, ...]]:
    facts = json.dumps(
        {
            **{"n_train": 1000, "n_val": 297, "n_params": 19258, "device": "cpu", "threads": 1},
            **{"data_sha256": "b" * 64, "torch_version": "2.15.0", "deterministic": True},
        }
    )
    for trial in range(1, total + 1):
        draw = random.Random(trial)
        knobs = {**space.default(), "lr": draw.uniform(1e-3, 0.5), "rho": draw.uniform(0.01, 0.5)}
        config = {
            **{"trainable": space.trainable, "variant": space.variant, "base": space.base},
            **{"knobs": knobs, "task": space.task, "metric": "val_acc", "test_permit": None},
            "budget": {"kind": "compute", "per_trial": 20.0},
            "seeds": {"init": 1, "order": 1, "split": 1},
            "checkpoint_dir": str(folder / "checkpoints" / f"{trial:05d}"),
            **{"cpus": 1.0, "gpus": 0.0},
        }
        repeat = trial > trials
        yield (
            *(trial, digest(str(trial)), 0, "confirm" if repeat else "search"),
            *(trial - 1, "repeat" if repeat else "sampled", canonical(config)),
            *(digest(canonical(knobs)), 1 if repeat else None, 0 if repeat else None),
            *(trial - trials - 1 if repeat else None, "completed", None, facts),
            *(1e9 + trial, 1e9 + trial + 60),
        )


def _reports(folder: Path, total: int, epochs: int) -> Iterator[tuple[Any, ...]]:
    sequence = 0
    for trial in range(1, total + 1):
        draw = random.Random(trial)
        top = draw.uniform(0.5, 0.97)
        for epoch in range(1, epochs + 1):
            sequence += 1
            value = top * (1 - math.exp(-3 * epoch / epochs)) + draw.uniform(0, 0.01)
            metrics = {
                **{"train_loss": 2.3 - value, "train_acc": 0.9 * value, "lr": 0.1 * draw.random()},
                **{"val_loss": 2.1 - value, "val_acc": value, "step": 16 * epoch},
                **{"see": 2.0 * epoch, "forward_samples": 2000 * epoch},
                **{"backward_samples": 2000 * epoch, "skipped_steps": 0},
                **{"train_s": draw.random() * epoch, "eval_s": draw.random() * epoch},
                **{"data_s": draw.random() * epoch, "peak_rss_mb": 860.90234375},
                **{"peak_gpu_mb": 0.0, "rho": 0.05},
            }
            attempt = 1 if _attempts(trial) == 2 and epoch > epochs // 2 else 0
            yield (
                *(sequence, trial, attempt, epoch, 20.0 * epoch / epochs, value),
                json.dumps(metrics, separators=(",", ":")),
                str(folder / "checkpoints" / f"{trial:05d}" / f"epoch-{epoch:05d}"),
                *(hashlib.sha256(str(sequence).encode()).hexdigest(), 1e9 + sequence / 7),
            )


def _decisions(trials: int, total: int, epochs: int) -> Iterator[tuple[Any, ...]]:
    rungs, level = {}, _GRACE
    while level < epochs:
        rungs[level] = len(rungs)
        level *= _FACTOR
    for sequence in range(1, total * epochs + 1):
        epoch = (sequence - 1) % epochs + 1
        rung = rungs.get(epoch) if sequence <= trials * epochs else None
        judged = (rung, float(epoch), 0.5) if rung is not None else (None, None, None)
        yield (sequence, "continue", *judged)


def main() -> None:
    parser = argparse.ArgumentParser(description="What it costs to look at a large run.")
    parser.add_argument("--repeats", type=int, default=3, help="of each command; the best counts")
    options = parser.parse_args()
    about = environment("optuna", "pyarrow", "pandas")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch, "runs")
        sizes = {"small": (100, 10), "wide": (10_000, 10), "large": (10_000, 100)}
        for name, (trials, epochs) in sizes.items():
            # In another process, because a child's peak memory starts at that of its parent.
            maker = multiprocessing.get_context("spawn").Process(
                target=make_run, args=(runs, name, trials, epochs)
            )
            maker.start()
            maker.join()
            folder = runs / name
            reports = (trials + 5) * epochs
            size = (folder / "sweep.db").stat().st_size
            commands = {
                "--help": ["--help"],
                "status": ["status", name],
                "trials": ["trials", name, "--format", "csv"],
                "show": ["show", name, "7"],
                "export": ["export", name],
                "export --optuna": ["export", name, "--optuna", str(folder / "o.journal")],
                "leaderboard": ["leaderboard", name],
            }
            for command, words in commands.items():
                own = [] if command == "--help" else ["--runs", str(runs)]
                best = min(
                    (cost("-m", "samtune", *words, *own) for _ in range(options.repeats)),
                    key=lambda figures: figures["wall_s"],
                )
                row = {"trials": trials, "reports": reports, "command": command, **best}
                rows.append(row)
                print(
                    f"{trials:7} trials {reports:8} reports  {command:16}"
                    f"{row['wall_s']:7.2f} s {row['cpu_s']:7.2f} CPU-s {row['peak_mb']:6.0f} MiB",
                    flush=True,
                )
            bytes_a_report = size / reports
            rows.append(
                {"trials": trials, "reports": reports, "bytes_a_report": round(bytes_a_report)}
            )
            print(f"{'':33}{bytes_a_report:.0f} bytes a report in sweep.db")
    result = {
        "environment": about,
        "repeats": options.repeats,
        "rows": rows,
    }
    _RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(_RESULT)


if __name__ == "__main__":
    main()
