"""The time that training waits for a checkpoint: `python -m benchmarks.checkpoints`.

A ResNet-18 for CIFAR and its SGD with momentum are saved as the loop saves them: copied by the
training, then hashed and written by a thread. For comparison the training itself writes the same
checkpoint and reads it back, as in samtune's first version. The wall times include the disk and
the load of the machine; the CPU time of the training thread does not. On a GPU the copy is only
queued.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import click
import torch

from benchmarks.environment import environment
from trainables import checkpoint
from trainables.models import build
from trainables.saver import Saver

EPOCH_S = 3.0
"""Seconds of an epoch of a ResNet-18 on a fast GPU; the costs are printed as shares of it."""


def state_of(model: str, device: str) -> dict[str, Any]:
    """Return the state of a network that has made a step on a device."""
    net = build(model, (3, 32, 32), 10, 0).to(device)
    base = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    base.step()
    return {"model": net.state_dict(), "optimizer": base.state_dict()}


def measure(model: str, rounds: int, device: str = "cpu") -> dict[str, Any]:
    """Return medians in seconds; a first round, which allocates memory, is left out."""
    state = state_of(model, device)
    before, after, busy = [], [], []
    with tempfile.TemporaryDirectory() as made:
        saver = Saver(Path(made, "behind"))
        for n in range(rounds + 1):
            begun, begun_busy = perf_counter(), thread_time()
            saver.start(n, state, lambda saved: None)
            after.append(perf_counter() - begun)
            busy.append(thread_time() - begun_busy)
            saver.settle(wait=True)
            begun = perf_counter()
            checkpoint.verify(checkpoint.save(Path(made, "inline"), n, state).path)
            before.append(perf_counter() - begun)
        saver.close()
        size = next(Path(made, "behind").glob("*/state.pt")).stat().st_size
    found = {"before": before, "after": after, "after, of the processor": busy}
    held = {name: statistics.median(times[1:]) for name, times in found.items()}
    shares = {name: seconds / EPOCH_S for name, seconds in held.items()}
    return {"model": model, "megabytes": size / 1e6, "held_s": held, "of_an_epoch": shares}


@click.command()
@click.option("--model", default="resnet18", show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--json", "file", type=click.Path(path_type=Path), help="Also write this file.")
def main(model: str, rounds: int, file: Path | None) -> None:
    """Measure how long a checkpoint delays training, written by the training or by a thread."""
    gpu = torch.cuda.is_available()
    about = environment("torch", device=torch.cuda.get_device_name() if gpu else None)
    found = measure(model, rounds, "cuda" if gpu else "cpu")
    print(f"{found['model']}, {found['megabytes']:.0f} MB, what the training waits for:")
    for name, seconds in found["held_s"].items():
        print(f"  {name:24} {seconds:.3f} s, {seconds / EPOCH_S:.1%} of an epoch of {EPOCH_S:g} s")
    if file is not None:
        file.write_text(json.dumps({"environment": about, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
