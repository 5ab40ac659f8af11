"""Launches and waits of training on a GPU, counted without one: `python -m benchmarks.launches`.

The real loop trains a ResNet-18 of few channels on the CUDA runtime of tests/fakegpu, which counts
what the host asks of a device and computes nothing. A launch is a kernel, a copy, or a call of
cuBLAS or cuDNN. How long any of them takes needs a real GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "launches.json"
MIXED = {"mixup": {"mixup": 0.2}, "cutmix": {"cutmix": 1.0}, "both": {"mixup": 0.2, "cutmix": 1.0}}
SHORT = {"precision": "fp32", "batch_size": 8, "train_size": 0.128}
REPLAYED = ("sgd", "sam", "gsam", "bayesian_sam")


def of_steps() -> dict[str, dict[str, int]]:
    """Return the launches of a step of each variant, outside and inside its passes, and its waits.

    A figure is the largest of six steps; launches leave out the first, which makes the state.
    """
    from gpu import launches, logged, run

    from samtune.optimizers import VARIANTS

    found = {}
    for name in VARIANTS:
        with logged() as log:
            run(name, task={"precision": "fp32"})
        found[name] = {
            "launches": max(log.outside[1:]),
            "in_passes": max(sum(map(launches, passes)) for passes in log.passes[1:]),
            "waits": max(step["WAIT"] for step in log.steps),
        }
    return found


def of_batches() -> dict[str, dict[str, float]]:
    """Return the launches of a batch outside its step, with the epoch's sums, and its waits."""
    from gpu import launches

    from trainables.augment import KINDS

    tasks = {kind: {"augment": kind} for kind in KINDS}
    tasks |= {name: {"augment": "standard", **words} for name, words in MIXED.items()}
    found = {}
    for name, words in tasks.items():
        # The difference leaves out what an epoch does once.
        eight = epoch_of(16, words) - epoch_of(8, words)
        found[name] = {"launches": launches(eight) / 8, "waits": eight["WAIT"] / 8}
    return found


def epoch_of(batches: int, words: dict[str, Any]) -> Counter[str]:
    """Return the counts of an epoch without its steps."""
    from gpu import logged, run

    with logged() as log:
        run(task={**SHORT, "train_size": 0.008 * batches, **words})
    return log.methods["_train_epoch"][-1]


def of_epochs() -> dict[str, int]:
    """Return how often the training waits at the end of an epoch, by what it waits for."""
    from gpu import logged, run

    with logged() as log:
        run("sam", task=SHORT)
    parts = {"training": "_train_epoch", "evaluation": "_validate", "metrics": "_costs"}
    found = {name: log.methods[method][-1]["WAIT"] for name, method in parts.items()}
    with tempfile.TemporaryDirectory() as made, logged() as log:
        run("sam", task=SHORT, checkpoint_dir=made)
    # A copy into memory that is not pinned. The thread that writes waits for the others at once.
    return found | {"checkpoint": log.methods["_save"][-1]["D2H"]}


def of_graphs() -> dict[str, int]:
    """Return the launches of a step that is replayed from a CUDA graph."""
    from gpu import counted, launches, run

    from trainables.graphs import StepGraphs

    step, found = StepGraphs.step, {}

    def watched(*words: Any) -> Any:
        with counted() as count:
            result = step(*words)
        found[name] = launches(count)
        return result

    StepGraphs.step = watched
    try:
        for name in REPLAYED:
            run(name, 6, task={"precision": "fp32", "graph": True})
    finally:
        StepGraphs.step = step
    return found


def measure() -> dict[str, Any]:
    """Return all counts; on the fake runtime only."""
    from trainables import loop

    # The comparison of two gradients, in the first ten steps of an epoch, is no part of a step.
    vars(loop)["_COMPARED"] = 0
    return {
        "steps": of_steps(),
        "batches": of_batches(),
        "epochs": of_epochs(),
        "graphs": of_graphs(),
    }


def table(found: dict[str, Any]) -> str:
    """Return the counts as lines."""
    lines = ["a step:               launches   in passes   waits"]
    for name, step in found["steps"].items():
        lines.append(f"{name:20} {step['launches']:9} {step['in_passes']:11} {step['waits']:7}")
    lines.append("a batch outside it:   launches               waits")
    for name, batch in found["batches"].items():
        lines.append(f"{name:20} {batch['launches']:9.1f} {batch['waits']:19.1f}")
    lines.append("the end of an epoch:                          waits")
    lines.extend(f"{name:20} {waits:29}" for name, waits in found["epochs"].items())
    lines.append("a replayed step:      launches")
    lines.extend(f"{name:20} {launches:9}" for name, launches in found["graphs"].items())
    return "\n".join(lines)


def on_fake_gpu() -> dict[str, Any]:
    """Return what `measure` counts, in a process on the fake runtime.

    Raises:
        ClickException: This machine lacks something for it.
    """
    sys.path.insert(0, str(ROOT / "tests" / "fakegpu"))
    import runtime

    if lacking := runtime.missing():
        raise click.ClickException(lacking)
    folders = (ROOT, ROOT / "tests" / "fakegpu" / "inside", ROOT / "tests" / "trainables")
    with tempfile.TemporaryDirectory() as made:
        environment = os.environ | runtime.build(Path(made))
        environment["PYTHONPATH"] = os.pathsep.join(map(str, folders))
        words = [sys.executable, "-W", "ignore", "-c"]
        words += ["import json, benchmarks.launches as b; print(json.dumps(b.measure()))"]
        ended = subprocess.run(words, env=environment, text=True, stdout=subprocess.PIPE)
    if ended.returncode:
        raise click.ClickException("the trials on the fake runtime have failed, see above")
    return dict(json.loads(ended.stdout.splitlines()[-1]))


@click.command()
@click.option("--json", "file", type=click.Path(path_type=Path), help="Also write this file.")
def main(file: Path | None) -> None:
    """Count the launches and waits of steps, batches, epochs and replayed graphs."""
    from benchmarks.environment import environment

    about = environment("torch")
    found = on_fake_gpu()
    print(table(found))
    if file is not None:
        file.write_text(json.dumps({"environment": about, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
