"""The counters of the fake GPU, and trials on it."""

from __future__ import annotations

import ctypes
import os
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from digits_trial import Report, config_of, train
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from samtune.optimizers import GradientOracle, Variant
from samtune.trial import Budget, TrialConfig
from trainables import loop, vision

_LIBRARY = ctypes.CDLL(None)
# In the order of runtime/counts.h.
NAMES = (
    *("LAUNCH", "LIBRARY", "H2D", "H2D_PINNED", "D2H", "D2H_PINNED", "D2D", "MEMSET"),
    *("WAIT", "MALLOC", "FREE", "HOST_ALLOC", "CAPTURED", "REFUSED"),
)
_COUNTS = ctypes.c_long * len(NAMES)
# Elsewhere the tests can be collected only.
_COUNTS = (
    _COUNTS.in_dll(_LIBRARY, "fake_counts") if "SAMTUNE_FAKE_GPU" in os.environ else _COUNTS()
)
LAUNCHES = ("LAUNCH", "LIBRARY", "D2D", "MEMSET", "H2D", "H2D_PINNED", "D2H", "D2H_PINNED")


def setting(name: str) -> Any:
    """A variable of the runtime; set its `value`."""
    kind = ctypes.c_size_t if name in {"fake_limit", "fake_used"} else ctypes.c_long
    kind = ctypes.c_int if name in {"fake_launch_error", "fake_cublas_status"} else kind
    return kind.in_dll(_LIBRARY, name)


def counts() -> Counter[str]:
    return Counter(dict(zip(NAMES, _COUNTS, strict=True)))


def launches(count: Counter[str]) -> int:
    return sum(count[name] for name in LAUNCHES)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Yield the counts of the block, filled at its end."""
    found: Counter[str] = Counter()
    before = counts()
    yield found
    found.update(counts() - before)


@dataclass
class Log:
    """The counts of steps on the device.

    Attributes:
        steps: of each step without its passes.
        passes: of the passes of each step.
        methods: of the loop's methods, by name; `_train_epoch` without its steps.
        waits: places in the code that waited for the device in a step or an epoch.
    """

    steps: list[Counter[str]] = field(default_factory=list)
    passes: list[list[Counter[str]]] = field(default_factory=list)
    methods: dict[str, list[Counter[str]]] = field(default_factory=dict)
    waits: list[str] = field(default_factory=list)

    @property
    def in_passes(self) -> list[Counter[str]]:
        """The counts of each pass."""
        return [found for of_step in self.passes for found in of_step]

    @property
    def outside(self) -> list[int]:
        """The launches of each step outside its passes."""
        return [launches(step) for step in self.steps]


@contextmanager
def logged() -> Iterator[Log]:
    """Log the steps that are made inside the block."""
    log = Log()
    evaluate, began = GradientOracle._evaluate, Counter()

    def logged_evaluate(*args: Any) -> Any:
        with counted() as found:
            result = evaluate(*args)
        if log.passes:
            log.passes[-1].append(found)
        return result

    def begin(optimizer: Any, *_: Any) -> None:
        if isinstance(optimizer, Variant):
            log.passes.append([])
            began.clear()
            began.update(counts())

    def end(optimizer: Any, *_: Any) -> None:
        if isinstance(optimizer, Variant):
            found = counts() - began
            for of_pass in log.passes[-1]:
                found -= of_pass
            log.steps.append(found)

    def told(message: Any, *_: Any, **__: Any) -> None:
        if "called a synchronizing" in str(message):
            log.waits.append(_place())

    def watched(name: str) -> Callable[[Any], Any]:
        method = getattr(loop.Trial, name)

        def watch(*args: Any) -> Any:
            first = len(log.steps)
            with counted() as found:
                result = method(*args)
            for step, passes in zip(log.steps[first:], log.passes[first:], strict=True):
                for part in (step, *passes):
                    found -= part
            log.methods.setdefault(name, []).append(found)
            return result

        return watch

    hooks = [register_optimizer_step_pre_hook(begin), register_optimizer_step_post_hook(end)]
    try:
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            patch.setattr(GradientOracle, "_evaluate", logged_evaluate)
            for name in ("_train_epoch", "_validate", "_averaged", "_save", "_costs"):
                patch.setattr(loop.Trial, name, watched(name))
            warnings.simplefilter("always")
            warnings.showwarning = told
            torch.cuda.set_sync_debug_mode("warn")
            yield log
    finally:
        torch.cuda.set_sync_debug_mode("default")
        for hook in hooks:
            hook.remove()


def _place() -> str:
    rooms = ("/samtune/", "/trainables/")
    stack = [f for f in traceback.extract_stack() if any(room in f.filename for room in rooms)]
    return f"{stack[-1].filename.split('/')[-1]}:{stack[-1].lineno}: {stack[-1].line}"


def trial(variant: str = "sgd", epochs: float = 2, **changes: Any) -> TrialConfig:
    """Return a trial on the GPU of three steps per epoch: 128, 128 and 44 images."""
    trainable = getattr(vision, variant)
    task = {"dataset": "digits", "model": "narrow:resnet18", "batch_size": 128, "train_size": 0.3}
    config = config_of(trainable, (trainable.bases or ("none",))[0], gpus=1, knobs={})
    own = changes.pop("task", {})
    return replace(config, task=task | own, budget=Budget("epochs", epochs), **changes)


def run(variant: str = "sgd", epochs: float = 2, **changes: Any) -> list[Report]:
    return train(trial(variant, epochs, **changes))
