"""Images per second of a real trial, and where its time goes: `python -m benchmarks.loop`.

A trial of the shipped loop trains a ResNet-18 on random images of CIFAR-10's size, by SGD and by
SAM. Steps, batches, evaluation and checkpoints are timed apart. For comparison, the plain loop
(torchvision's transforms in a DataLoader, the same network, and the common SAM wrapper with its
two closures) and the bare loop train on the same images. A GPU's figures need a GPU. On the CPU
the network is the small CNN, and the figures only show that the benchmark runs.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import aims, plain_loops, side_by_side
from benchmarks.environment import environment
from benchmarks.real_trial import FULL, QUICK, SMALL, Size, epochs, images
from benchmarks.tried import tried
from trainables.data import TrainVal


def trial(variant: str, size: Size, data: TrainVal, gpus: float, **task: Any) -> dict[str, float]:
    """Time a real trial between its first epoch and its last."""
    ends, reports = epochs(variant, size, data, gpus, **task)
    spent = {word: (ends[-1][word] - ends[0][word]) / (len(ends) - 1) for word in ends[0]}
    return {
        "images_per_s": size.train / spent["at"],
        "epoch_s": spent["at"],
        "step_ms": 1000 * (spent["train_s"] + spent["data_s"]) / spent["step"],
        "eval_s": spent["eval_s"],
        "checkpoint_s": spent["saved"],
        "peak_gpu_mb": reports[-1]["metrics"]["peak_gpu_mb"],
    }


def _without_samtune(ends: list[float], size: Size, steps: int) -> dict[str, float]:
    epoch = (ends[-1] - ends[0]) / (len(ends) - 1)
    images = min(size.train, steps * size.batch)
    return {"images_per_s": images / epoch, "epoch_s": epoch, "step_ms": 1000 * epoch / steps}


def measure(
    size: Size, gpus: float, workers: int, words: Sequence[str], at_once: int = 0
) -> list[dict[str, Any]]:
    """Return the rows of the table.

    Args:
        size: What is trained.
        gpus: 1, or 0 for the CPU.
        workers: Of the plain loop's DataLoader.
        words: Task words to set, one at a time.
        at_once: How many processes train side by side; 0 for none.
    """
    tasks: list[dict[str, Any]] = [{}, *({word: True} for word in words)]
    # First, while this process has nothing on the GPU.
    together = side_by_side.measure(at_once, size, gpus, workers, tasks) if at_once else []
    data, rows = images(size), list[dict[str, Any]]()
    for task, variant in itertools.product(tasks, ("sgd", "sam")):
        ours = {"loop": "samtune", "variant": variant, **task}
        rows.append(tried(ours, partial(trial, variant, size, data, gpus, **task)))

    def plain(variant: str) -> dict[str, float]:
        train = plain_loops.plain(variant, *of_all, gpu=gpus > 0, workers=workers)
        return _without_samtune(train, size, -(-size.train // size.batch))

    def bare() -> dict[str, float]:
        # It has whole batches only.
        train = plain_loops.bare(*of_all, gpu=gpus > 0)
        return _without_samtune(train, size, size.train // size.batch)

    of_all = (size.model, data.train, size.batch, size.epochs)
    for variant in ("sgd", "sam"):
        rows.append(tried({"loop": "DataLoader", "variant": variant}, partial(plain, variant)))
    rows.append(tried({"loop": "bare", "variant": "sgd"}, bare))
    return rows + together


def table(rows: list[dict[str, Any]]) -> str:
    """Return one line a row, and one for each aim."""
    words = ("images_per_s", "epoch_s", "step_ms", "eval_s", "checkpoint_s", "of_alone")
    lines = [
        f"{'loop':12}{'variant':9}{'task':9}{'at once':16}" + "".join(f"{w:>14}" for w in words)
    ]
    for row in rows:
        shown = "".join(f"{row[w]:14.4g}" if w in row else f"{'-':>14}" for w in words)
        if "missing" in row:
            shown = f"  not measured: {row['missing']}"
        at_once = f"{row['at_once']} by {row['way']}" if row.get("way") else "1"
        lines.append(f"{row['loop']:12}{row['variant']:9}{aims.task_of(row):9}{at_once:16}{shown}")
    return "\n".join([*lines, *aims.lines(rows)])


@click.command()
@click.option("--quick", is_flag=True, help="Fewer images.")
@click.option("--small", is_flag=True, help="A small CNN, as on the CPU.")
@click.option("--compile", "compiled", is_flag=True, help="Also with task.compile.")
@click.option("--graph", is_flag=True, help="Also with task.graph, which needs a GPU.")
@click.option("--workers", default=4, show_default=True, help="Of the plain loop's DataLoader.")
@click.option("--side-by-side", "at_once", default=0, help="Also so many processes at once.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Also write this file.")
def main(
    quick: bool,
    small: bool,
    compiled: bool,
    graph: bool,
    workers: int,
    at_once: int,
    file: Path | None,
) -> None:
    """Measure the loop on this machine's GPU, or on its CPU if it has none."""
    gpu = torch.cuda.is_available()
    about = environment("torch", device=torch.cuda.get_device_name() if gpu else None)
    size = SMALL if small or not gpu else QUICK if quick else FULL
    words = [word for word, on in (("compile", compiled), ("graph", graph)) if on]
    rows = measure(size, float(gpu), workers, words, at_once)
    print(table(rows))
    if file is not None:
        file.write_text(json.dumps({"environment": about, "rows": rows}, indent=1))
    if any(row.get("failed") for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
