"""What a trial host forked from a warm process would save: one against a new process.

    python -m benchmarks.forked_host

Prints processor seconds: of a new process's imports and first optimizer, and of a forked child's
first trials, beside those that the parent ran before it. POSIX only.
"""

from __future__ import annotations

import os
import time
from statistics import median

_TRIALS = 3


def main() -> None:
    began = time.process_time()
    from benchmarks.sweep import FIXED, TASK
    from samtune.trial import Budget, Seeds, TrialConfig, running
    from trainables.vision import sam

    knobs = FIXED | {"lr": 0.1, "rho": 0.05, "weight_decay": 1e-4}
    config = TrialConfig(
        "trainables.vision:sam", "sam", "sgd", knobs, TASK, Budget("compute", 4), Seeds(1, 1, 0)
    )

    def trials() -> list[float]:
        spent = []
        for _ in range(_TRIALS):
            started = time.process_time()
            with running(config, lambda report: None):
                sam(config)
            spent.append(time.process_time() - started)
        return spent

    _, *later = trials()
    # What the first trial took longer is torch's compiler, imported with the first optimizer.
    warm = time.process_time() - began - sum(later) - median(later)
    print(f"a new process, until it trains as fast as it will: {warm:.2f} s", flush=True)
    child = os.fork()
    if child == 0:
        host = trials()
        before, extra = time.process_time() - sum(host), sum(host) - _TRIALS * median(later)
        print(f"a forked host, until then: {before + extra:.2f} s", flush=True)
        os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
