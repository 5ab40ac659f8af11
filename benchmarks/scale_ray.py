"""Measure what a trial and a report cost through real Ray, where training takes no time.

    python -m benchmarks.scale_ray --trials 100,1000 --json benchmarks/results/scale-ray.json

`samtune run` sweeps a stub that only reports: random search unless `--method` names another one,
nothing stopped, several workers at a time. Each size is a run of its own. The cost per trial is
the difference quotient of two moments of a run, after a tenth of its trials and before the last,
so costs that are paid once per sweep cancel. The quotient of two runs' totals is printed too. One
more run of the smallest size, with more reports per trial, separates the cost of a trial from that
of its reports. Linux only, see `benchmarks.process_tree`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

import samtune
from benchmarks.environment import environment
from benchmarks.process_tree import look, measure

_SPACE = """\
samtune: 1
trainable: benchmarks.scale_ray:stub
knobs:
  lr:  {{min: 1e-3, max: 0.5, scale: log}}
  rho: {{min: 0.01, max: 0.5, scale: log}}
budget: {{kind: epochs, per_trial: {reports}, trials: {trials}}}
search: {{method: {method}}}
asha: {{grace: {reports}, factor: 3}}
resources: {{cpus: 1, parallel: {slots}}}
"""
_EVERY_S = 0.5


def stub(config: samtune.TrialConfig) -> None:
    """Send the reports of the shipped task without training."""
    for epoch in range(1, int(config.budget.per_trial) + 1):
        value = config.knobs["lr"] * (1 - 0.5**epoch)
        samtune.report(
            epoch=epoch,
            facts={"n_val": 10_000} if epoch == 1 else None,
            **{"val_acc": value, "val_loss": 1 - value, "train_acc": value},
            **{"train_loss": 1 - value, "see": 2.0 * epoch, "lr": 0.1, "rho": 0.05},
            **{"step": 100 * epoch, "forward_samples": 1e5, "backward_samples": 1e5},
            **{"skipped_steps": 0, "train_s": 1.0, "eval_s": 0.1, "data_s": 0.1},
            **{"peak_rss_mb": 500.0, "peak_gpu_mb": 0.0},
        )


def drive(trials: int, reports: int, slots: int, method: str, figures: Path) -> None:
    """Run the sweep in this process, and write the cost of this process to a file.

    Memory is sampled from the end of the first tenth of the trials to the end of the last.
    """
    from samtune.cli import main
    from samtune.record.record import Record

    file = Path("scale.yaml")
    file.write_text(_SPACE.format(trials=trials, reports=reports, slots=slots, method=method))
    seen: list[dict[str, float]] = []
    spent: dict[psutil.Process, float] = {}

    def watch() -> None:
        while not Path("runs", "scale", "sweep.db").exists():
            time.sleep(_EVERY_S)
        with Record.open(Path("runs"), "scale", read_only=True) as record:
            while True:
                ended = record.ended("search")
                seen.append({"ended": ended, "at": time.monotonic(), **_used(spent)})
                time.sleep(_EVERY_S)

    threading.Thread(target=watch, daemon=True).start()
    try:
        main(["run", str(file), "--no-confirm", "--quiet", "--name", "scale"])
    except SystemExit as end:
        if end.code:
            raise
    first = next(now for now in seen if now["ended"] >= 0.1 * trials)
    last = [now for now in seen if now["ended"] < trials][-1]
    done = last["ended"] - first["ended"]
    grown = {name: last[name] - first[name] for name in first}
    figures.write_text(
        json.dumps(
            {
                "cpu_ms_a_trial": 1e3 * grown["all_cpu_s"] / done,
                "driver_cpu_ms_a_trial": 1e3 * grown["cpu_s"] / done,
                "wall_ms_a_trial": 1e3 * grown["at"] / done,
                "grown_mib": grown["rss_mib"],
                "rss_mib": last["rss_mib"],
                "new_processes": grown["processes"],
            }
        )
    )


def _used(spent: dict[psutil.Process, float]) -> dict[str, float]:
    """Return the time and memory of this process, and the time of all seen below it: `spent`."""
    look(spent)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu_s": used.ru_utime + used.ru_stime,
        "all_cpu_s": used.ru_utime + used.ru_stime + sum(spent.values()),
        "processes": float(len(spent)),
        "rss_mib": psutil.Process().memory_info().rss / 2**20,
    }


def sweep(trials: int, reports: int, slots: int, method: str) -> dict[str, Any]:
    """Run one sweep in processes of its own; figures in seconds, milliseconds and mebibytes."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder, "figures.json")
        words = [str(word) for word in (trials, reports, slots, method, figures)]
        code = "import sys; from benchmarks.scale_ray import drive; from pathlib import Path; "
        code += "drive(*map(int, sys.argv[1:4]), sys.argv[4], Path(sys.argv[5]))"
        home = str(Path(__file__).parents[1])
        usage = measure(
            [sys.executable, "-c", code, *words],
            folder=Path(folder),
            environment={"PYTHONPATH": home},
            output=subprocess.DEVNULL,
        )
        if usage.returncode:
            raise RuntimeError(f"the sweep ended with {usage.returncode}")
        own = json.loads(figures.read_text())
    sizes = {"trials": trials, "reports_a_trial": reports, "slots": slots}
    return {**sizes, "wall_s": usage.wall_s, "cpu_s": usage.cpu_s, **own}


def quotients(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what one more report, and one more trial beyond its reports, cost.

    `rows` have growing sizes. The last row repeats the first with more reports per trial.
    """
    *sizes, wordy = rows
    more = wordy["reports_a_trial"] - sizes[0]["reports_a_trial"]
    a_report = (wordy["cpu_ms_a_trial"] - sizes[0]["cpu_ms_a_trial"]) / more
    return {
        "cpu_ms_a_report": a_report,
        "cpu_ms_a_trial_beyond_reports": {
            row["trials"]: row["cpu_ms_a_trial"] - row["reports_a_trial"] * a_report
            for row in sizes
        },
        "cpu_ms_a_trial_by_totals": {
            f"{small['trials']} to {large['trials']}": 1e3
            * (large["cpu_s"] - small["cpu_s"])
            / (large["trials"] - small["trials"])
            for small, large in itertools.pairwise(sizes)
        },
    }


def main() -> None:
    """Measure each size, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", default="100,1000")
    parser.add_argument("--reports", default="2,22", help="a trial: in all runs, in the last one")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--method", default="random", help="of search: random or tpe")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    about = environment("torch", "ray", "optuna")
    few, many = map(int, arguments.reports.split(","))
    sizes = [(trials, few) for trials in map(int, arguments.trials.split(","))]
    rows = []
    heads = ("trials", "reports a trial", "slots", "wall s", "CPU s, all processes")
    heads += (
        "CPU ms a trial, all",
        "the driver's",
        "wall ms a trial",
        "driver's MiB more",
        "processes more",
    )
    print("|", " | ".join(heads), "|")
    print("|---" * len(heads) + "|")
    for trials, reports in [*sizes, (sizes[0][0], many)]:
        row = sweep(trials, reports, arguments.slots, arguments.method)
        rows.append(row)
        print(
            f"| {trials} | {reports} | {arguments.slots} | {row['wall_s']:.0f} "
            f"| {row['cpu_s']:.1f} | {row['cpu_ms_a_trial']:.1f} "
            f"| {row['driver_cpu_ms_a_trial']:.1f} "
            f"| {row['wall_ms_a_trial']:.0f} | {row['grown_mib']:.0f} "
            f"| {row['new_processes']:.0f} |",
            flush=True,
        )
    found = quotients(rows)
    print(f"{found['cpu_ms_a_report']:.1f} CPU-ms a report, all processes")
    for trials, cost in found["cpu_ms_a_trial_beyond_reports"].items():
        print(f"{cost:.0f} CPU-ms a trial beyond its reports, of {trials} trials")
    for between, cost in found["cpu_ms_a_trial_by_totals"].items():
        print(f"{cost:.0f} CPU-ms a trial with {few} reports, by the totals from {between} trials")
    if arguments.json:
        results = {"environment": about, "method": arguments.method, "rows": rows, **found}
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
