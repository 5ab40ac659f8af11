"""Run a trial in a worker as if the worker were new.

A worker runs one trial after another. What a trainable changes in its process must not reach the
next trial, and its random numbers must follow from the trial's seeds alone. Signal handlers need
no care: only a main thread may set them, and no trainable runs in one.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import locale
import logging
import multiprocessing
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np

from samtune.cluster.shipping import receive
from samtune.record.provenance import hostname_hash
from samtune.trial import Seeds

# How to read a setting, and how to restore it.
Setting = tuple[Callable[[], Any], Callable[[Any], object]]


def enter(config: Mapping[str, Any]) -> None:
    """Change to the folder of the command, and make the user's modules importable.

    Only workers on the machine of the command change the folder; other machines have other files.
    """
    if config["host"] == hostname_hash():
        os.chdir(config["folder"])
    sys.path.extend(path for path in config["path"] if path not in sys.path)
    receive(config["trial"]["trainable"], config["by_value"])


@contextmanager
def clean(seeds: Seeds) -> Iterator[None]:
    """Seed every generator before the block, and undo the block's changes to the process.

    `random`, NumPy and torch (CPU and GPU) draw numbers that follow from `seeds` alone, in every
    worker and on every rank. torch is not imported for this: it is seeded when the block imports
    it.
    """
    drawn = np.random.SeedSequence([abs(seeds.init), abs(seeds.order), abs(seeds.split)])
    of_random, of_numpy, of_torch = (int(seed) for seed in drawn.generate_state(3))
    with ExitStack() as undo:
        undo.enter_context(warnings.catch_warnings())
        undo.enter_context(_kept(_PROCESS))
        random.seed(of_random)
        np.random.seed(of_numpy)
        undo.enter_context(_with_torch(lambda: _start_torch(undo, of_torch)))
        yield


@contextmanager
def _kept(settings: Sequence[Setting]) -> Iterator[None]:
    before = []
    for get, put in settings:
        # torch refuses to read a setting that was made in two ways, an old one and a new one.
        with contextlib.suppress(RuntimeError):
            before.append((put, get()))
    try:
        yield
    finally:
        for put, value in reversed(before):
            # A value that cannot be restored, such as a removed folder, must not prevent the rest.
            with contextlib.suppress(Exception):
                put(value)


def _start_torch(undo: ExitStack, seed: int) -> None:
    import torch

    undo.enter_context(_kept(_torch_settings()))
    undo.callback(_leave_groups)
    torch.manual_seed(seed)


@contextmanager
def _with_torch(start: Callable[[], None]) -> Iterator[None]:
    """Call `start` at once if torch is imported, and else when the block imports it."""
    if "torch" in sys.modules:
        start()
        yield
        return
    finder = _TorchFinder(start)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.remove()


class _TorchFinder(MetaPathFinder):
    """A finder of modules that calls a function right after the import of torch."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def remove(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != "torch":
            return None
        self.remove()
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                run(module)
                self._then()

            vars(spec.loader)["exec_module"] = exec_module
        return spec


def _set_environment(variables: dict[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def _refill(target: MutableSequence[Any], values: Sequence[Any]) -> None:
    target[:] = values


def _set_streams(streams: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = streams


_PROCESS: tuple[Setting, ...] = (
    (os.getcwd, os.chdir),
    (lambda: dict(os.environ), _set_environment),
    (lambda: list(sys.path), lambda folders: _refill(sys.path, folders)),
    (lambda: list(sys.argv), lambda words: _refill(sys.argv, words)),
    (lambda: (sys.stdout, sys.stderr), _set_streams),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    (gc.get_threshold, lambda counts: gc.set_threshold(*counts)),
    (lambda: logging.root.level, logging.root.setLevel),
    (lambda: list(logging.root.handlers), partial(_refill, logging.root.handlers)),
    (lambda: logging.root.manager.disable, logging.disable),
    (lambda: locale.setlocale(locale.LC_ALL), partial(locale.setlocale, locale.LC_ALL)),
    (
        partial(multiprocessing.get_start_method, allow_none=True),
        partial(multiprocessing.set_start_method, force=True),
    ),
    (random.getstate, random.setstate),
    (np.random.get_state, np.random.set_state),
    (np.geterr, lambda how: np.seterr(**how)),
    (np.get_printoptions, lambda options: np.set_printoptions(**options)),
)


def _torch_settings() -> list[Setting]:
    import torch
    from torch import backends

    # torch's own stubs lack some of its words.
    cudnn: Any = backends.cudnn
    mkldnn: Any = backends.mkldnn
    matmul = backends.cuda.matmul
    settings: list[Setting] = [
        (torch.get_rng_state, torch.set_rng_state),
        (torch.get_default_dtype, torch.set_default_dtype),
        # A default device of "cpu" would slow down every factory function.
        (
            torch.get_default_device,
            lambda device: torch.set_default_device(None if device.type == "cpu" else device),
        ),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        (torch.get_num_threads, torch.set_num_threads),
        # Also whether algorithms must be deterministic.
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
        *(_attribute(cudnn, name) for name in ("enabled", "benchmark", "deterministic")),
        *(_attribute(matmul, name) for name in _REDUCED),
        # Restored from the last to the first: the older words for TF32 set the newer ones too.
        *(
            _attribute(place, "fp32_precision")
            for place in (
                *(mkldnn.matmul, mkldnn.conv, mkldnn.rnn, mkldnn),
                *(matmul, cudnn.conv, cudnn.rnn, cudnn, backends),
            )
        ),
        _attribute(cudnn, "allow_tf32"),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    ]
    if torch.cuda.is_initialized():
        settings.append((torch.cuda.current_device, torch.cuda.set_device))
    return settings


_REDUCED = (
    *("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"),
    "allow_fp16_accumulation",
)


def _attribute(place: Any, name: str) -> Setting:
    return partial(getattr, place, name), partial(setattr, place, name)


def _leave_groups() -> None:
    """End a process group that the trainable has left open: a process has one at a time."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
