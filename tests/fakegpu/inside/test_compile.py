"""Compiled trials: Inductor and Triton compile them for the GPU, and their kernels are launched.

A trial has two graphs: the forward pass of the training, with its backward pass, and that of the
evaluation, without one. Inductor makes three programs of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from digits_trial import train
from gpu import Log, counted, launches, logged, run, trial
from torch._dynamo.utils import counters

from samtune.optimizers import GradientOracle
from samtune.trial import Seeds
from trainables import loop, precision

TASK = {"compile": True, "precision": "fp32", "model": "narrow:two_layers"}
Graphs = tuple[int, int]


def graphs() -> Graphs:
    """Return how many graphs torch has traced, and how many programs Inductor has made."""
    inductor = counters["inductor"]
    programs = inductor["fxgraph_cache_miss"] + inductor["fxgraph_cache_hit"]
    return counters["stats"]["unique_graphs"], programs


def forget() -> None:
    torch.compiler.reset()
    counters.clear()
    precision._compiled_for = None


@dataclass
class Compiled:
    """The compilations of a trial up to each epoch's begin, and up to the end of each pass."""

    epochs: list[Graphs] = field(default_factory=list)
    passes: list[Graphs] = field(default_factory=list)
    trial: Any = None


@contextmanager
def watched() -> Iterator[Compiled]:
    found = Compiled()
    epoch, evaluate = loop.Trial._train_epoch, GradientOracle._evaluate

    def watched_epoch(self: loop.Trial) -> dict[str, float]:
        found.trial = self
        found.epochs.append(graphs())
        return epoch(self)

    def watched_evaluate(*args: Any) -> Any:
        result = evaluate(*args)
        if found.epochs:
            found.passes.append(graphs())
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trial, "_train_epoch", watched_epoch)
        patch.setattr(GradientOracle, "_evaluate", watched_evaluate)
        yield found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        forget()
        yield
        forget()


@pytest.fixture(scope="module")
def first(cache: None) -> tuple[Compiled, Log]:
    """Two epochs of SAM: steps of 128, 128 and 44 images, two passes each."""
    with logged() as log, watched() as found:
        (*_, last) = run("sam", task=TASK)
    assert last["facts"]["device"] == "cuda" and last["facts"]["compiled"]
    assert len(found.passes) == 12
    return found, log


@pytest.fixture(scope="module")
def second(first: tuple[Compiled, Log]) -> Compiled:
    """The next trial of the process."""
    config = replace(trial("sam", task=TASK), seeds=Seeds(4, 5, 6))
    with watched() as found:
        train(config)
    return found


def test_two_graphs_are_compiled_before_the_training(first: tuple[Compiled, Log]) -> None:
    """GPU defect 4. Otherwise the time of compilation would count as training."""
    found, _ = first
    assert found.epochs[0] == (2, 3)


def test_the_second_pass_compiles_nothing(first: tuple[Compiled, Log]) -> None:
    """GPU defect 14. Weights in another layout would be a reason to compile again."""
    found, _ = first
    assert found.passes[1] == found.passes[0]


def test_the_ragged_batch_compiles_nothing(first: tuple[Compiled, Log]) -> None:
    found, _ = first
    assert found.passes[5] == found.passes[3]


def test_the_next_trial_compiles_nothing(first: tuple[Compiled, Log], second: Compiled) -> None:
    found, _ = first
    assert {*second.epochs, *second.passes} == {found.passes[-1]}
    assert not counters["graph_break"]


def test_no_compiled_pass_waits_for_the_device(first: tuple[Compiled, Log]) -> None:
    _, log = first
    assert sum(count["WAIT"] + count["H2D"] for count in log.in_passes) == 0, log.waits
    assert all(count["LAUNCH"] for count in log.in_passes), "Triton's launches are counted"


def test_a_compiled_model_refuses_a_batch_of_the_cpu(second: Compiled) -> None:
    with pytest.raises(RuntimeError, match="device"), torch.no_grad():
        second.trial.model(torch.zeros(128, 1, 8, 8))


def test_a_graph_holds_compiled_passes(first: tuple[Compiled, Log]) -> None:
    found, _ = first
    with watched() as again, counted() as count:
        run("sam", 6, task={**TASK, "graph": True})
    assert count["CAPTURED"] and not count["REFUSED"]
    assert {*again.epochs, *again.passes} == {found.passes[-1]}


def test_combo_kernels_launch_less(first: tuple[Compiled, Log]) -> None:
    _, plain = first
    with logged() as combo:
        run("sam", 1, task={**TASK, "combo_kernels": True})
    assert len(combo.passes) == 3
    for of_combo, of_plain in zip(combo.passes, plain.passes, strict=False):
        for fewer, more in zip(of_combo, of_plain, strict=True):
            assert launches(fewer) < launches(more)
