"""Measure what a sweep costs beyond its training: samtune and its peers, interleaved.

    pip install -e . syne-tune psutil
    python -m benchmarks.sweep --json benchmarks/results/sweep-cpu.json

All train the same 27 configurations of SAM on the shipped digits, none stopped early, two trials
at a time. CPU and wall seconds are those of the whole process tree. `training` is the CPU time of
the training threads. Linux only. A peer that is not installed is left out, and a line says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.environment import environment
from benchmarks.process_tree import SAMTUNE, Usage, measure

GRID = {"lr": [0.02, 0.05, 0.1], "rho": [0.02, 0.05, 0.1], "weight_decay": [1e-5, 1e-4, 1e-3]}
FIXED = {"momentum": 0.9}
TASK = {"dataset": "digits", "model": "small_cnn", "label_noise": 0.4, "batch_size": 64}
_NEEDS = {"optuna": "optuna", "ray": "ray", "syne-tune": "syne_tune"}
_SPACE = """\
samtune: 1
trainable: benchmarks.sweep_peers:train
knobs: {knobs}
task: {task}
budget: {{kind: compute, per_trial: {per_trial}, trials: 1}}
search: {{method: grid, seed: 1, first: []}}
asha: {{grace: {per_trial}}}
resources: {{cpus: 1, parallel: 2}}
"""


def main() -> None:
    """Run all contenders in turn, several times, and print a table of medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-trial", type=float, default=4, help="see per trial")
    parser.add_argument("--contenders", default="one-process,samtune,optuna,ray,syne-tune")
    parser.add_argument(
        "--json", type=Path, help="also put the figures there, beside those of other --per-trial"
    )
    arguments = parser.parse_args()
    sweep = {
        "grid": GRID,
        "fixed": FIXED,
        "task": TASK,
        "per_trial": arguments.per_trial,
        "configurations": [
            dict(zip(GRID, point, strict=True)) | FIXED
            for point in itertools.product(*GRID.values())
        ],
    }
    about = {"environment": environment("torch", "ray", "optuna", "syne-tune")}
    contenders = [name for name in arguments.contenders.split(",") if _installed(name)]
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    expected: dict[str, float] = {}
    for _ in range(arguments.rounds):
        for name in contenders:
            figures, found = run(name, sweep)
            if found != (expected := expected or found):
                raise SystemExit(f"{name} came to other accuracies than {contenders[0]}")
            rounds[name].append(figures)
            print(name, rounds[name][-1], file=sys.stderr, flush=True)
    rows = [summary(name, found, len(sweep["configurations"])) for name, found in rounds.items()]
    print(table(rows))
    if arguments.json:
        add(arguments.json, arguments.per_trial, about | {"rounds": rounds, "rows": rows})


def add(file: Path, per_trial: float, results: dict[str, Any]) -> None:
    """Put the results into the file, in place of earlier ones with the same see per trial."""
    found = json.loads(file.read_text()) if file.exists() else {}
    found[f"{per_trial:g}"] = results
    file.write_text(json.dumps(found, indent=1) + "\n")


def run(name: str, sweep: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Run one contender's whole sweep in a folder of its own.

    Returns:
        Its figures, and the accuracies of its trials.
    """
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        log = here / "log"
        file = here / "sweep.json"
        file.write_text(json.dumps(sweep))
        variables = {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
            "SAMTUNE_BENCHMARK_LOG": str(log),
            "SAMTUNE_BENCHMARK_SWEEP": str(file),
            "SYNETUNE_FOLDER": str(here / "syne-tune"),
        }
        if name == "samtune":
            knobs = {knob: {"grid": values} for knob, values in sweep["grid"].items()}
            text = _SPACE.format(
                knobs=json.dumps(knobs | sweep["fixed"]),
                task=json.dumps(sweep["task"]),
                per_trial=sweep["per_trial"],
            )
            (here / "sam27.yaml").write_text(text)
            words = [*SAMTUNE, "run", "sam27.yaml", "--no-confirm", "--quiet"]
        else:
            words = [sys.executable, "-m", "benchmarks.sweep_peers", name, str(file)]
        usage: Usage = measure(
            words, folder=here, environment=variables, output=subprocess.DEVNULL
        )
        if usage.returncode:
            raise SystemExit(f"{name} ended with exit code {usage.returncode}")
        trained = [json.loads(line) for line in log.read_text().splitlines()]
    found = accuracies(name, trained, sweep)
    figures = {
        "cpu_s": round(usage.cpu_s, 2),
        "wall_s": round(usage.wall_s, 2),
        "training_s": round(sum(t["cpu_s"] for t in trained), 2),
        "processes": usage.processes,
    }
    return figures, found


def accuracies(
    name: str, trained: list[dict[str, Any]], sweep: dict[str, Any]
) -> dict[str, float]:
    """Return the last accuracy of each configuration.

    Raises:
        SystemExit: A configuration was not trained to its end, or was trained twice.
    """
    wanted = len(sweep["configurations"])
    found = {
        str([one["knobs"][knob] for knob in sweep["grid"]]): one["val_acc"]
        for one in trained
        if one["used"] >= sweep["per_trial"]
    }
    if not len(trained) == len(found) == wanted:
        raise SystemExit(
            f"{name} trained {len(found)} of {wanted} configurations to their ends, "
            f"in {len(trained)} trials"
        )
    return found


def summary(name: str, rounds: list[dict[str, float]], trials: int) -> dict[str, Any]:
    """Return the medians over the rounds."""
    middle = {key: median(found[key] for found in rounds) for key in rounds[0]}
    return {
        "contender": name,
        **middle,
        "useful_share": median(found["training_s"] / found["cpu_s"] for found in rounds),
        "beyond_per_trial_s": median(
            (found["cpu_s"] - found["training_s"]) / trials for found in rounds
        ),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return a table in Markdown. The last columns are ratios to samtune."""
    ours = next((row for row in rows if row["contender"] == "samtune"), None)
    heads = ("contender", "CPU s", "wall s", "training CPU s", "useful share")
    heads += ("beyond training, s per trial", "processes", "CPU x samtune", "wall x samtune")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        ratios = (
            f"{row['cpu_s'] / ours['cpu_s']:.2f} | {row['wall_s'] / ours['wall_s']:.2f}"
            if ours
            else "- | -"
        )
        lines.append(
            f"| {row['contender']} | {row['cpu_s']:.1f} | {row['wall_s']:.1f} "
            f"| {row['training_s']:.1f} | {row['useful_share']:.2f} "
            f"| {row['beyond_per_trial_s']:.2f} | {row['processes']:.0f} | {ratios} |"
        )
    return "\n".join(lines)


def _installed(name: str) -> bool:
    needed = _NEEDS.get(name)
    if needed is None or importlib.util.find_spec(needed) is not None:
        return True
    print(f"{name} is not installed and left out; pip install {name}", file=sys.stderr)
    return False


if __name__ == "__main__":
    main()
