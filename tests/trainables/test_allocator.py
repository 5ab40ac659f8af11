"""A process that trains on the CPU keeps the memory that its steps free."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

COUNTED = """
import resource
import torch
from samtune.optimizers import SAM
from samtune.trial import Budget, Seeds, TrialConfig
from trainables.loop import Trial
from trainables.task import TASK

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        freed = [torch.ones(size) for size in [2**20] * 12 + [2**24]]
        del freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
task = {name: word.default for name, word in TASK.items()} | {"dataset": "digits"}
budget, seeds = Budget("compute", 1), Seeds(1, 2, 3)
config = TrialConfig("t:sam", "sam", "sgd", {"lr": 0.1}, task, budget, seeds)
Trial(config, lambda model, n: SAM(torch.optim.SGD(model.parameters(), lr=0.1)))
faults()
print(before, faults())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="another allocator than glibc's",
)
def test_after_a_trial_has_begun_freed_memory_is_not_taken_anew() -> None:
    run = subprocess.run(
        [sys.executable, "-c", COUNTED], check=True, capture_output=True, text=True
    )
    before, after = map(int, run.stdout.split())
    assert before > 20 * 2**26 / 4096
    assert after < before / 100
