"""The number of processes that a sweep needs, from four words of a space's `resources`.

    cpus, gpus   what one process of a trial gets
    workers      how many processes train one trial together
    parallel     how many trials may run at once, at most; `auto` is as many as fit
    slots        how many trials do run at once: what fits into the cluster, and no more than
                 `parallel`

With `cpus: 2`, `workers: 3` and `parallel: 4`, a trial takes 6 CPUs. A cluster of 20 CPUs has 3
slots, one of 100 CPUs has 4.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from samtune.space.schema import ResourceSettings


@dataclass(frozen=True)
class TrialSize:
    """The resources of one trial: `workers` processes with `cpus` and `gpus` each.

    `mps` says whether trials that share a GPU compute there at once.
    """

    cpus: float
    gpus: float
    workers: int
    parallel: int | None = None
    mps: bool = False

    @classmethod
    def of(cls, spaces: Sequence[ResourceSettings]) -> TrialSize:
        """Return a size that is enough for the trials of every space."""
        limits = [each.parallel for each in spaces if isinstance(each.parallel, int)]
        gpus = max(each.gpus for each in spaces)
        return cls(
            cpus=max(each.cpus for each in spaces),
            gpus=gpus,
            workers=max(each.workers for each in spaces),
            parallel=max(limits, default=None),
            # A trial of another space may need a whole GPU, and then no two trials share one.
            mps=gpus < 1 and any(each.gpu_sharing == "mps" for each in spaces),
        )

    @property
    def own_cpus(self) -> int:
        """The CPUs that a Ray of our own offers: those of the machine, or as many as are asked."""
        return max(_processors(), math.ceil((self.parallel or 1) * self.workers * self.cpus))

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The resources of each process."""
        each = {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})
        return [dict(each) for _ in range(self.workers)]

    def slots(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """Return how many trials run at once on nodes with these resources, 0 if none fits."""
        fits = sum(fitting(node, self.cpus, self.gpus) for node in nodes) // self.workers
        return min(fits, self.parallel or fits)

    def own_slots(self) -> int:
        """Return how many trials a Ray of our own runs at once on this machine."""
        node: dict[str, float] = {"CPU": self.own_cpus}
        if self.gpus:
            import torch

            node["GPU"] = torch.cuda.device_count()
        return self.slots([node])

    def does_not_fit(self, nodes: Sequence[Mapping[str, float]]) -> str:
        """Return the sentence for a cluster in which no trial fits."""
        cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
        times = f"{self.workers} times " if self.workers > 1 else ""
        least = {"gpus": 0, "workers": 1, "cpus": 1}
        less = [f"{word}={n}" for word, n in least.items() if getattr(self, word) > n]
        ways = " or ".join(f"--set resources.{word}" for word in less) or "a node with more CPUs"
        return (
            f"no trial fits: one needs {times}{self.cpus:g} CPUs and {self.gpus:g} GPUs, and Ray "
            f"has {cpus:g} CPUs and {gpus:g} GPUs on {len(nodes)} "
            f"node{'s' if len(nodes) > 1 else ''}; try {ways}"
        )


def fitting(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Return how many processes a node holds. A GPU is shared by whole processes only."""
    fits = int(node.get("CPU", 0) / cpus + 1e-9)
    if gpus:
        have = node.get("GPU", 0)
        per_gpu = int(1 / gpus + 1e-9)
        fits = min(fits, int(have) * per_gpu if per_gpu else int(have / gpus + 1e-9))
    return fits


def _processors() -> int:
    """Return how many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
