"""Measure the cost of the driver in a large sweep: CPU time, memory and size of the record.

    python -m benchmarks.scale_sweep --json benchmarks/results/scale-sweep.json

An event queue replaces Ray, so a sweep of 10,000 trials at 256 at a time takes minutes on one
core. Proposals, rungs and record are the real ones. A trial sends 10 reports, `--epoch` seconds of
the queue's clock apart. The driver is the only server in that queue, and a call occupies it for as
long as it really takes. `busy` is the share of time in which the slots do not wait for it. At the
end the live table is redrawn once (a sweep does it twice per second), and `samtune status` reads
the run.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import multiprocessing
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.environment import environment
from benchmarks.one_process import cost
from samtune.cluster.size import TrialSize
from samtune.cluster.start import Cluster
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace
from samtune.sweep.driver import Driver
from samtune.sweep.live import QuietView, TableView, view
from samtune.sweep.progress import Progress
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.stop import Stop

_EPOCHS = 10
_REFRESHES = 100
_SPACE = """\
samtune: 1
extends: sam.yaml
budget: {{kind: epochs, per_trial: 10, trials: {trials}}}
asha: {{grace: 2, factor: 3}}
search: {{method: {method}}}
"""


def sweep(method: str, trials: int, slots: int, epoch_s: float) -> dict[str, float]:
    """Run one sweep to its end. Times are in seconds, sizes in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "scale.yaml")
        file.write_text(_SPACE.format(method=method, trials=trials))
        space = SearchSpace.load(file)
        settings = {"mode": "max", "trials": trials, "search_alg": method, "scheduler": "asha"}
        row = {"name": space.name, "variant": "sam", "base": "sgd", "space": space.text}
        row |= {"sha256": space.sha256, "settings": json.dumps(settings | {"searched": []})}
        with Record.create(Path(folder), "run", [row]) as record:
            stop = Stop()
            search = SearchStage(record, [space])
            on = Cluster(slots, TrialSize(cpus=1, gpus=0, workers=1), record.folder)
            driver = Driver([search], record, on, QuietView(), stop)
            driver.open_next()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            cpu, started = time.process_time(), time.perf_counter()
            reports, busy = _play(driver, slots, epoch_s)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - started
            driver.close(cut=False)
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # The record is closed, so the file includes its write-ahead log.
        size = (record.folder / "sweep.db").stat().st_size
        status = cost("-m", "samtune", "status", "run", "--runs", folder)
    return {
        "method": method,
        "trials": trials,
        "reports": reports,
        "cpu_s": cpu,
        "wall_s": wall,
        "cpu_ms_per_trial": 1000 * cpu / trials,
        "cpu_ms_per_report": 1000 * cpu / reports,
        "bytes_per_report": size / reports,
        "grown_mib": (after - before) / 1024,
        "busy": busy,
        "refresh_cpu_ms": _refresh_cpu_ms(search.progress),
        "status_cpu_s": status["cpu_s"],
    }


def _refresh_cpu_ms(progress: Progress) -> float:
    """Return the CPU time of redrawing the live table once."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(file=nowhere, force_terminal=True, width=120)
        with view(console) as table:
            assert isinstance(table, TableView)
            started = time.process_time()
            for _ in range(_REFRESHES):
                # Otherwise it redraws only after half a second.
                table._drawn = -math.inf
                table.refresh(progress)
            return 1000 * (time.process_time() - started) / _REFRESHES


def _play(driver: Driver, slots: int, epoch_s: float) -> tuple[int, float]:
    """Run all trials; return the number of reports and the share of the slots' time in use."""
    draw = random.Random(1)
    names = itertools.count()
    waiting: list[tuple[float, int, int, str, float]] = []
    free_at = reports = 0
    trained = 0.0

    def serve(arrives: float, call: Callable[[], Any]) -> tuple[Any, float]:
        """Make a call that arrives at a time. Return its answer and the time of the answer."""
        nonlocal free_at
        began = time.perf_counter()
        answer = call()
        free_at = max(free_at, arrives) + time.perf_counter() - began
        return answer, free_at

    def start(slot: int, arrives: float) -> None:
        name = str(next(names))
        config, at = serve(arrives, lambda: driver.propose(name))
        if config is not None:
            quality = draw.random()
            heapq.heappush(waiting, (at + epoch_s, slot, 1, name, quality))

    for slot in range(slots):
        start(slot, 0.0)
    last, full = 0.0, (0.0, 0.0, waiting)
    while waiting:
        now, slot, epoch, name, quality = heapq.heappop(waiting)
        trained += epoch_s
        reports += 1
        value = quality * (1 - 0.5**epoch)
        report = {
            **{"epoch": epoch, "used": float(epoch), "checkpoint": None},
            **{"checkpoint_sha256": None, "facts": {"n_val": 10_000} if epoch == 1 else {}},
            "metrics": {
                **{"val_acc": value, "val_loss": 1 - value, "train_acc": value},
                **{"train_loss": 1 - value, "see": 2.0 * epoch, "lr": 0.1, "rho": 0.05},
                **{"step": 100 * epoch, "forward_samples": 1e5, "backward_samples": 1e5},
                **{"skipped_steps": 0, "train_s": 1.0, "eval_s": 0.1, "data_s": 0.1},
                **{"peak_rss_mb": 500.0, "peak_gpu_mb": 0.0},
            },
        }
        told = {"report": json.dumps(report)}
        goes_on, at = serve(now, lambda n=name, t=told: driver.reported(n, t))
        last = max(last, at)
        if goes_on and epoch < _EPOCHS:
            heapq.heappush(waiting, (at + epoch_s, slot, epoch + 1, name, quality))
            continue
        _, at = serve(at, lambda n=name: driver.ended(n, {"done": True}, error=False))
        start(slot, at)
        if len(waiting) == slots:
            full = at, trained, [*waiting]
    # Only until no trial was left to start, because then the slots become empty one by one.
    until, trained, under_way = full
    trained += sum(max(0.0, until - (end - epoch_s)) for end, *_ in under_way)
    return reports, trained / (slots * until)


def _alone(arguments: tuple[str, int, int, float]) -> dict[str, float]:
    return sweep(*arguments)


def main() -> None:
    """Measure each size, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", default="30,100,1000,10000")
    parser.add_argument("--methods", default="random,tpe")
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--epoch", type=float, default=30.0, help="seconds between two reports")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    about = environment("ray", "optuna")
    rows = []
    heads = ("search", "trials", "slots", "CPU ms a trial", "CPU ms a report", "MiB more")
    heads += ("bytes a report", "slots busy", "CPU ms a refresh", "status CPU s")
    print("|", " | ".join(heads), "|")
    print("|---" * len(heads) + "|")
    for method, trials in itertools.product(
        arguments.methods.split(","), map(int, arguments.trials.split(","))
    ):
        slots = min(arguments.slots, max(2, trials // 10))
        # In a process of its own, so that memory is measured separately.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.map(_alone, [(method, trials, slots, arguments.epoch)])[0]
        rows.append(row | {"slots": slots})
        print(
            f"| {method} | {trials} | {slots} | {row['cpu_ms_per_trial']:.1f} "
            f"| {row['cpu_ms_per_report']:.2f} | {row['grown_mib']:.0f} "
            f"| {row['bytes_per_report']:.0f} | {100 * row['busy']:.1f} % "
            f"| {row['refresh_cpu_ms']:.2f} | {row['status_cpu_s']:.2f} |",
            flush=True,
        )
    if arguments.json:
        results = {"environment": about, "epoch_s": arguments.epoch, "rows": rows}
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
