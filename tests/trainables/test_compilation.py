"""Compilation: once for all passes, batches and trials, by one process at a time.

Dynamo decides when to compile, whatever the backend: counted without inductor's.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from digits_trial import train
from filelock import FileLock, Timeout
from test_precision import CPU, TRAINABLES, config_of, cuda, losses
from torch import Tensor, nn
from torch._dynamo.utils import counters

from samtune.optimizers import BASES, SAM, GradientOracle
from samtune.trial import Budget, Seeds
from trainables import loop, precision, vision
from trainables.models import build
from trainables.precision import CompileError, Precision, compile_forward
from trainables.targets import cross_entropy
from trainables.vision import Vision

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def variables() -> Iterator[None]:
    """Restore those of the environment that compilation sets."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def nothing_compiled() -> Iterator[None]:
    def forget() -> None:
        torch.compiler.reset()
        counters.clear()
        precision._compiled_for = None

    forget()
    yield
    forget()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, nothing_compiled: None) -> dict[str, int]:
    """Graphs compiled in all, by a backend that only traces."""
    count = {"graphs": 0}

    def backend(graph: Any, inputs: list[Tensor]) -> Any:
        count["graphs"] += 1
        return graph.forward

    original = compile_forward
    monkeypatch.setattr(
        precision, "compile_forward", lambda model, program, **_: original(model, program, backend)
    )
    return count


@pytest.mark.slow
@pytest.mark.parametrize("trainable", TRAINABLES, ids=lambda t: t.variant)
def test_after_the_first_steps_nothing_is_compiled_again(
    trainable: Vision, counted: dict[str, int]
) -> None:
    """Not for the second pass at other weights, the last batch of 22, nor in the next trial."""
    config = config_of(trainable, compile=True, train_size=0.15)
    first = train(replace(config, budget=Budget("epochs", 1)))
    # Training, evaluation, and for some a forward pass without gradients or a part of the batch.
    assert 2 <= counted["graphs"] <= 4
    assert first[0]["facts"]["compiled"]
    with torch._dynamo.config.patch(error_on_recompile=True):
        again = train(replace(config, seeds=Seeds(4, 5, 6)))
    assert again[-1]["metrics"]["step"] == 6
    assert not counters["graph_break"]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_compiled_sam_step_has_one_graph_for_both_passes(
    layout: str, counted: dict[str, int]
) -> None:
    model = build("small_cnn", (1, 8, 8), 10, 0)
    words = {"precision": "auto", "memory_format": layout, "compile": True, "combo_kernels": False}
    how = Precision.of(words, CPU)
    model = how.place(model, "small_cnn")
    sam = SAM(BASES["sgd"].build(model.parameters(), lr=0.1))
    # torch's own kernels take batches below 16, and a single image, another way: once each.
    for size, graphs in ((64, 1), (64, 1), (40, 1), (64, 1), (7, 2), (1, 3), (9, 3), (64, 3)):
        inputs = torch.randn(size, 1, 8, 8).contiguous(memory_format=how.memory_format)
        oracle = GradientOracle(model, inputs, torch.arange(size) % 10, cross_entropy(0))
        assert sam.step(oracle).forward_samples == 2 * size
        assert counted["graphs"] == graphs


def test_all_is_compiled_before_the_training_starts(
    counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU defect 4. Otherwise a trial's clock would count its compilation: 99 s to 0.04 s."""
    # The last batch of an epoch has 8 images.
    config = config_of(vision.sam, augment="cutout", train_size=200)
    epoch, warm, begun = loop.Trial._train_epoch, loop.Trial._pass_once, []

    def watched(self: loop.Trial) -> dict[str, float]:
        begun.append((counted["graphs"], torch.rand(1).item()))
        return epoch(self)

    def drawing(self: loop.Trial, count: int) -> None:
        torch.rand(1)
        warm(self, count)

    monkeypatch.setattr(loop.Trial, "_train_epoch", watched)
    monkeypatch.setattr(loop.Trial, "_pass_once", drawing)
    plain = train(config)
    expected = [number for _, number in begun]
    begun.clear()
    compiled = train(replace(config, task={**config.task, "compile": True}))
    assert begun == [(counted["graphs"], number) for number in expected]
    assert counted["graphs"] > 0
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "sizes"), [({"train_size": 129}, [64, 65]), ({"val_size": 1}, [64, 16])]
)
def test_only_batches_that_a_trial_has_are_compiled(
    words: dict[str, int],
    sizes: list[int],
    counted: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rest of one image joins the batch before it: BatchNorm could not normalise it."""
    warm, seen = loop.Trial._pass_once, []

    def noted(self: loop.Trial, count: int) -> None:
        seen.append(count)
        warm(self, count)

    monkeypatch.setattr(loop.Trial, "_pass_once", noted)
    config = config_of(vision.sgd, compile=True, batch_size=64, **words)
    (report,) = train(replace(config, budget=Budget("epochs", 1)))
    assert seen == sizes
    assert report["facts"]["compiled"]


def test_another_architecture_in_a_warm_worker_starts_afresh(counted: dict[str, int]) -> None:
    """torch would give up compiling a function at its eighth version, across all models."""
    for width in range(2, 14):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.Linear(width, 3))
        precision.compile_forward(model, f"width {width}")
        assert model(torch.ones(5, 4)).shape == (5, 3)
        assert counted["graphs"] == width - 1


def test_a_compiled_model_has_the_state_of_the_plain_one(counted: dict[str, int]) -> None:
    plain, model = (build("small_cnn", (1, 8, 8), 10, 3) for _ in range(2))
    precision.compile_forward(model, "small_cnn")
    assert model.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(6, 1, 8, 8)
    torch.testing.assert_close(model(images), plain(images))
    assert counted["graphs"] == 1


def test_both_compiled_passes_drop_the_same_units(nothing_compiled: None) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    compile_forward(model, "dropout", backend="aot_eager")
    oracle = GradientOracle(
        model, torch.randn(8, 1, 4, 4), torch.zeros(8, dtype=torch.long), cross_entropy(0)
    )
    first = oracle.grad([*model.parameters()])
    for g, h in zip(first, oracle.grad([*model.parameters()]), strict=True):
        assert g is not None and h is not None and torch.equal(g, h)


def test_without_a_compiler_the_trial_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(CompileError, match=r"install g\+\+, or --set task\.compile=false"):
        train(config_of(vision.sgd, compile=True))
    # GPU defect 17. On a GPU Triton needs a compiler of C.
    gpu = Precision("bf16", True, True, torch.device("cuda"))
    model = nn.Flatten()
    monkeypatch.setattr(model, "to", lambda *_, **__: model)
    with pytest.raises(CompileError, match=r"a C compiler .* install gcc"):
        gpu.place(model, "none")


def test_what_else_a_compiler_needs_is_named_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(precision, "_compiler", lambda on_gpu: ("C", "CC", ("cc",), "cc"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert precision.cannot_compile(on_gpu=False) is None
    assert "pip install triton" in str(precision.cannot_compile(on_gpu=True))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert "install python3-dev" in str(precision.cannot_compile(on_gpu=False))


def test_any_compiler_will_do_and_torch_learns_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """GPU defect 17. Torch itself looks for g++ only."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    for name in ("clang++", "cc"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    precision._find_compiler(CPU)
    precision._find_compiler(torch.device("cuda"))
    assert (os.environ["CXX"], os.environ["CC"]) == ("clang++", "cc")
    monkeypatch.setenv("CXX", "ccache g++")
    with pytest.raises(CompileError, match=r"CXX names ccache g\+\+, which is not there; correct"):
        precision._find_compiler(CPU)
    monkeypatch.setenv("CXX", " ")
    precision._find_compiler(CPU)
    assert os.environ["CXX"] == "clang++"


def test_one_process_of_a_machine_compiles_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """GPU defect 12. Otherwise K trials would compile one graph K times, each by 32 processes."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
    other = FileLock(tmp_path / "cache" / ".compiling.lock", is_singleton=False)
    with precision.compiling(), pytest.raises(Timeout):
        other.acquire(timeout=0)
    with other:
        pass
    compile_forward(nn.Flatten(), "none")
    assert os.environ["TORCHINDUCTOR_COMPILE_THREADS"] == str(torch.get_num_threads())
    # No folder, no lock.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/dev/null/cache")
    with precision.compiling():
        pass


def test_the_first_compilation_of_a_trial_holds_the_lock(
    counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU defect 12. The same in a trial."""
    graphs = []

    @contextmanager
    def noted() -> Iterator[None]:
        graphs.append(counted["graphs"])
        yield
        graphs.append(counted["graphs"])

    monkeypatch.setattr(loop, "compiling", noted)
    train(config_of(vision.sam, compile=True, train_size=0.15))
    assert graphs == [0, counted["graphs"]]


def test_combo_kernels_are_an_option_of_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        torch, "compile", lambda forward, backend, options: asked.append(options) or forward
    )
    monkeypatch.setattr(precision, "_find_compiler", lambda device: None)
    for combo in (False, True):
        words = {"precision": "auto", "memory_format": "auto", "compile": True}
        Precision.of({**words, "combo_kernels": combo}, CPU).place(nn.Flatten(), f"{combo}")
    assert asked == [None, {"combo_kernels": True}]
    assert set(asked[1]) <= set(torch._inductor.list_options())


def test_a_compiled_model_cannot_share_its_batch_norm() -> None:
    config = replace(config_of(vision.sgd, compile=True), workers=2)
    with pytest.raises(ValueError, match=r"set task\.batch_norm to local, or task\.compile to"):
        train(config)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_inductor_trains_as_torch_does(
    nothing_compiled: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The real compiler, on the smallest net there is; the cache lies where it should."""
    from torch._inductor import config

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    plain, model = (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)) for _ in range(2))
    plain.load_state_dict(model.state_dict())
    inputs, labels = torch.randn(12, 1, 4, 4), torch.arange(12) % 3
    # Precompiled headers take a minute, and pay for large models only.
    with config.patch(cpp_cache_precompile_headers=False):
        compile_forward(model, "linear")
        for net in (plain, model):
            sam = SAM(BASES["sgd"].build(net.parameters(), lr=0.1))
            for size in (12, 12, 5):
                sam.step(GradientOracle(net, inputs[:size], labels[:size], cross_entropy(0)))
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "samtune" / "inductor")
    assert any((tmp_path / "samtune" / "inductor").iterdir())


@pytest.mark.cuda
@cuda
@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_compiled_training_on_cuda_is_near_the_plain_one(
    name: str, nothing_compiled: None
) -> None:
    plain = train(config_of(vision.sam, gpus=1, precision=name))
    compiled = train(config_of(vision.sam, gpus=1, precision=name, compile=True))
    assert losses(compiled) == pytest.approx(losses(plain), rel=0.05)
    with torch._dynamo.config.patch(error_on_recompile=True):
        train(config_of(vision.sam, gpus=1, precision=name, compile=True))
