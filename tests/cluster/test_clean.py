"""A worker is as new for each trial: seeded, and without what the trial before has left."""

from __future__ import annotations

import gc
import locale
import logging
import multiprocessing
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from samtune.cluster.clean import clean
from samtune.trial import Seeds


def draws(seeds: Seeds) -> list[float]:
    with clean(seeds):
        return [random.random(), float(np.random.rand()), torch.rand(()).item()]


def test_random_numbers_follow_from_the_seeds_alone() -> None:
    first = draws(Seeds(1, 1, 1))
    random.random(), np.random.rand(), torch.rand(())
    assert draws(Seeds(1, 1, 1)) == first
    for other in (Seeds(2, 1, 1), Seeds(1, 2, 1), Seeds(1, 1, 2), Seeds(2**40, 1, 1)):
        assert not set(draws(other)) & set(first)


def test_the_workers_own_generators_go_on() -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = [random.random(), np.random.rand(), torch.rand(())]
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    draws(Seeds(1, 2, 3))
    assert [random.random(), np.random.rand(), torch.rand(())] == expected


LATE = """
import sys
from samtune.cluster.clean import clean
from samtune.trial import Seeds
assert "torch" not in sys.modules
with clean(Seeds(1, 1, {seed})):
    import torch
    print(torch.rand(()).item())
    torch.set_default_dtype(torch.float64)
print(torch.get_default_dtype())
with clean(Seeds(1, 1, {seed})):
    print(torch.rand(()).item())
"""


def test_torch_is_seeded_when_a_trainable_imports_it() -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", LATE.format(seed=seed)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in (1, 2)
    ]
    assert said[0][0] == said[0][2] and said[1][0] == said[1][2] and said[0][0] != said[1][0]
    assert said[0][1] == said[1][1] == "torch.float32"


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[], object]]] = {
    "a new variable": (
        lambda: os.environ.get("LAB_NEW"),
        lambda: os.environ.update(LAB_NEW="1"),
    ),
    "a removed variable": (lambda: os.environ.get("PATH"), lambda: os.environ.pop("PATH")),
    "the folder": (os.getcwd, lambda: os.chdir("/")),
    "the import path": (lambda: list(sys.path), lambda: sys.path.insert(0, "/lab")),
    "the arguments": (lambda: list(sys.argv), lambda: sys.argv.append("--lab")),
    "stdout": (lambda: sys.stdout, lambda: setattr(sys, "stdout", None)),
    "recursion": (sys.getrecursionlimit, lambda: sys.setrecursionlimit(5000)),
    "garbage": (gc.isenabled, gc.disable),
    "warnings": (
        lambda: list(warnings.filters),
        lambda: warnings.simplefilter("error"),
    ),
    "the log level": (lambda: logging.root.level, lambda: logging.root.setLevel(1)),
    "the log's handlers": (
        lambda: list(logging.root.handlers),
        lambda: logging.root.addHandler(logging.NullHandler()),
    ),
    "a silent log": (lambda: logging.root.manager.disable, lambda: logging.disable(50)),
    "the start of processes": (
        lambda: multiprocessing.get_start_method(allow_none=True),
        lambda: multiprocessing.set_start_method("spawn", force=True),
    ),
    "the locale": (
        lambda: locale.setlocale(locale.LC_ALL),
        lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8"),
    ),
    "NumPy's errors": (np.geterr, lambda: np.seterr(all="raise")),
    "NumPy's print": (
        lambda: np.get_printoptions()["precision"],
        lambda: np.set_printoptions(precision=2),
    ),
    "dtype": (torch.get_default_dtype, lambda: torch.set_default_dtype(torch.float64)),
    "device": (torch.get_default_device, lambda: torch.set_default_device("meta")),
    "gradients": (torch.is_grad_enabled, lambda: torch.set_grad_enabled(False)),
    "anomalies": (torch.is_anomaly_enabled, lambda: torch.autograd.set_detect_anomaly(True)),
    "threads": (
        torch.get_num_threads,
        lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    ),
    "matmul": (
        torch.get_float32_matmul_precision,
        lambda: torch.set_float32_matmul_precision("medium"),
    ),
    "TF32 of all": (
        lambda: torch.backends.fp32_precision,
        lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    ),
    "TF32 of convolutions": (
        lambda: torch.backends.cudnn.conv.fp32_precision,
        lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    ),
    "TF32 of products": (
        lambda: torch.backends.cuda.matmul.fp32_precision,
        lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    ),
    "TF32 by its older word": (
        lambda: (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.conv.fp32_precision),
        lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    ),
    "convolutions of a CPU": (
        lambda: torch.backends.mkldnn.conv.fp32_precision,
        lambda: setattr(torch.backends.mkldnn.conv, "fp32_precision", "bf16"),
    ),
    "products of a CPU": (
        lambda: torch.backends.mkldnn.matmul.fp32_precision,
        lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "tf32"),
    ),
    "all of a CPU": (
        lambda: (torch.backends.mkldnn.fp32_precision, torch.backends.mkldnn.rnn.fp32_precision),
        lambda: setattr(torch.backends.mkldnn, "fp32_precision", "bf16"),
    ),
    "sums in half precision": (
        lambda: torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        lambda: setattr(
            torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False
        ),
    ),
    "determinism": (
        torch.get_deterministic_debug_mode,
        lambda: torch.use_deterministic_algorithms(True),
    ),
    "cudnn.benchmark": (
        lambda: torch.backends.cudnn.benchmark,
        # A test before may have set it: a trial on a GPU does.
        lambda: setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
    ),
    "cudnn.deterministic": (
        lambda: torch.backends.cudnn.deterministic,
        lambda: setattr(torch.backends.cudnn, "deterministic", True),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_trial_changes_does_not_reach_the_next(change: str, fails: bool) -> None:
    read, alter = CHANGES[change]
    before = read()
    try:
        with clean(Seeds(1, 1, 1)):
            alter()
            changed = read()
            if fails:
                raise ValueError
    except ValueError:
        pass
    assert changed != before or (change == "the locale" and "C.UTF-8" in str(before))
    assert read() == before


def test_a_trial_may_remove_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    with clean(Seeds(1, 1, 1)):
        os.environ["LAB_NEW"] = "1"
        os.chdir(tmp_path)
        gone.rmdir()
    assert "LAB_NEW" not in os.environ


def test_a_process_group_left_open_is_ended(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with clean(Seeds(1, 1, 1)):
            distributed.init_process_group(
                "gloo", init_method=f"file://{tmp_path / name}", rank=0, world_size=1
            )
    assert not distributed.is_initialized()
