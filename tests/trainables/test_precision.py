"""Dtype, layout and repeatability: as the task says, and recorded."""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from digits_trial import CutError, Report, train
from torch import Tensor, nn

from samtune.optimizers import BASES, BayesianSAM, GradientOracle, Variant
from samtune.trial import Budget, Seeds, TrialConfig
from trainables import checkpoint, vision
from trainables.device import DeviceError, deterministic
from trainables.models import MODELS, build
from trainables.models.small_cnn import small_cnn
from trainables.precision import Precision
from trainables.targets import cross_entropy
from trainables.vision import Vision

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINABLES = [value for value in vars(vision).values() if isinstance(value, Vision)]
CPU = torch.device("cpu")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def config_of(trainable: Vision, gpus: float = 0, **task: Any) -> TrialConfig:
    return TrialConfig(
        trainable=f"trainables.vision:{trainable.variant}",
        variant=trainable.variant,
        base=(trainable.bases or ("none",))[0],
        knobs={},
        task=task,
        budget=Budget("epochs", 2),
        seeds=Seeds(1, 2, 3),
        gpus=gpus,
    )


def whole_and_resumed(config: TrialConfig, folder: Path) -> tuple[list[Report], list[Report]]:
    """Train a trial without a stop, and one that is cut after its first epoch and goes on."""
    whole = train(replace(config, checkpoint_dir=str(folder / "whole")))
    cut = replace(config, checkpoint_dir=str(folder / "cut"))
    with pytest.raises(CutError):
        train(cut, cut_at=1)
    return whole, train(cut)


def losses(reports: list[Report]) -> list[float]:
    return [report["metrics"]["train_loss"] for report in reports]


def state_of(report: Report) -> dict[str, Any]:
    return checkpoint.load(Path(report["checkpoint"]))


# What the task's words mean.


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({}, ("fp32", False, False)),
        ({"precision": "fp32"}, ("fp32", False, False)),
        ({"precision": "bf16", "compile": True}, ("bf16", False, True)),
        ({"precision": "fp16", "memory_format": "channels_last"}, ("fp16", True, False)),
        ({"memory_format": "contiguous"}, ("fp32", False, False)),
    ],
)
def test_on_the_cpu_auto_is_float32_as_it_lies(
    task: dict[str, Any], expected: tuple[str, bool, bool]
) -> None:
    words = {"precision": "auto", "memory_format": "auto", "compile": False, **task}
    found = Precision.of({"combo_kernels": False, **words}, CPU)
    assert (found.precision, found.channels_last, found.compiled) == expected
    assert found.facts() == dict(
        zip(("precision", "channels_last", "compiled"), expected, strict=True)
    )


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_for_cuda_auto_is_channels_last_and_the_bf16_that_the_gpu_has(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, expected: str
) -> None:
    # As on a GPU before Ampere, which has bf16 by emulation alone.
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: has_bf16 or including_emulation,
    )
    words = {"precision": "auto", "memory_format": "auto", "compile": False}
    found = Precision.of(words, torch.device("cuda"))
    assert (found.precision, found.channels_last) == (expected, True)
    assert found.memory_format is torch.channels_last
    assert found.dtype is (torch.bfloat16 if has_bf16 else None)
    said = Precision.of(
        {**words, "precision": "fp16", "memory_format": "contiguous"}, found.device
    )
    assert (said.precision, said.channels_last) == ("fp16", False)


@pytest.mark.cuda
@cuda
def test_on_cuda_auto_is_bf16_and_channels_last() -> None:
    reports = train(config_of(vision.sam, gpus=1))
    assert reports[0]["facts"]["device"] == "cuda"
    assert reports[0]["facts"]["precision"] == "bf16"
    assert reports[0]["facts"]["channels_last"]
    assert losses(reports)[-1] < losses(reports)[0]


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_half_precision_is_of_the_passes_and_not_of_the_weights(name: str, tmp_path: Path) -> None:
    plain = train(config_of(vision.sam, train_size=0.2))
    config = config_of(vision.sam, train_size=0.2, precision=name)
    reports = train(replace(config, checkpoint_dir=str(tmp_path)))
    assert losses(reports) != losses(plain)
    assert losses(reports) == pytest.approx(losses(plain), rel=0.1)
    assert reports[0]["facts"]["precision"] == name
    # Evaluation computes as the passes do.
    vals = [found[-1]["metrics"]["val_loss"] for found in (reports, plain)]
    assert vals[0] != vals[1] and vals[0] == pytest.approx(vals[1], rel=0.1)
    state = state_of(reports[-1])
    assert all(w.dtype != torch.half for w in state["model"].values())
    assert state["model"]["0.weight"].dtype == torch.float32
    assert bool(state["scaler"]) == (name == "fp16")


def test_a_resumed_fp16_trial_has_the_scale_it_had(tmp_path: Path) -> None:
    config = config_of(vision.sam, precision="fp16", train_size=0.1)
    whole, after = whole_and_resumed(config, tmp_path)
    assert losses(after) == losses(whole)
    assert state_of(after[-1])["scaler"] == state_of(whole[-1])["scaler"]


@pytest.fixture
def overflows(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Numbers of backward passes in which the gradient of a small CNN is infinite."""
    when: set[int] = set()

    def build_small(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
        model = small_cnn(in_shape, classes)
        count = itertools.count(1)
        weight = next(model.parameters())
        weight.register_hook(lambda g: g * float("inf") if next(count) in when else g)
        return model

    monkeypatch.setitem(MODELS, "small_cnn", build_small)
    return when


@pytest.mark.parametrize("when", [9, 10], ids=["pass 1", "pass 2"])
def test_an_overflow_skips_its_step_and_the_schedules_go_on(
    when: int, overflows: set[int]
) -> None:
    """Schedules follow the budget, and a skipped step has spent its passes."""
    config = config_of(vision.sam, precision="fp16", train_size=0.5, warmup=1)
    radius = {"rho": 0.1, "rho_schedule": "linear"}
    config = replace(config, knobs={"lr": 0.05, **radius})
    clean = [r["metrics"] for r in train(config)]
    overflows.add(when)
    found = [r["metrics"] for r in train(config)]
    assert [m["skipped_steps"] for m in clean] == [0, 0]
    assert [m["skipped_steps"] for m in found] == [1, 1]
    assert found[-1]["train_loss"] != clean[-1]["train_loss"]
    for name in ("step", "lr", "rho"):
        assert [m[name] for m in found] == [m[name] for m in clean]
    # A fifth step of 64 whose first pass was not finite makes no second.
    saved = 64 if when == 9 else 0
    assert clean[-1]["forward_samples"] - found[-1]["forward_samples"] == saved


def test_an_infinite_loss_in_fp16_is_a_skipped_step(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count(1)

    class Spiking(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = super().forward(x)
            return out * float("inf") if self.training and next(calls) == 3 else out

    monkeypatch.setitem(MODELS, "small_cnn", lambda *shape: Spiking(small_cnn(*shape)))
    found = [r["metrics"] for r in train(config_of(vision.sgd, precision="fp16"))]
    assert [m["skipped_steps"] for m in found] == [1, 1]
    assert all(math.isfinite(m["train_loss"]) and m["train_acc"] > 0 for m in found)


@pytest.mark.parametrize(
    ("task", "epochs", "steps"),
    [
        # Of 16 steps an epoch: the first is all skipped.
        ({}, 3, 16),
        # Of 4: the scaler has had 16 at the end of the fourth, or the budget ends.
        ({"batch_size": 250}, 6, 16),
        ({"batch_size": 250}, 2, 8),
        # A hundred in a row, in an epoch that has more.
        ({"batch_size": 8}, 1, 100),
    ],
)
def test_a_trial_whose_steps_are_all_skipped_has_diverged(
    task: dict[str, Any], epochs: int, steps: int, overflows: set[int], tmp_path: Path
) -> None:
    overflows.update(range(1000))
    config = config_of(vision.sgd, precision="fp16", **task)
    config = replace(config, budget=Budget("epochs", epochs), checkpoint_dir=str(tmp_path))
    *before, last = train(config)
    assert last["metrics"]["step"] == last["metrics"]["skipped_steps"] == steps
    assert math.isnan(last["metrics"]["train_loss"]) and last["checkpoint"] is None
    assert all(math.isfinite(r["metrics"]["train_loss"]) for r in before)


def test_skips_in_a_row_are_counted_across_epochs_and_a_resume(
    overflows: set[int], tmp_path: Path
) -> None:
    # Of 4 steps an epoch the first is made, and no other.
    overflows.update(range(2, 1000))
    config = config_of(vision.sgd, precision="fp16", batch_size=250)
    config = replace(config, budget=Budget("epochs", 50))
    whole = train(replace(config, checkpoint_dir=str(tmp_path / "whole")))
    assert whole[-1]["metrics"]["skipped_steps"] == 3 + 4 * 4
    cut = replace(config, checkpoint_dir=str(tmp_path / "cut"))
    with pytest.raises(CutError):
        train(cut, cut_at=3)
    overflows.add(1)
    after = train(cut)
    assert state_of(whole[2])["counters"]["skipped_in_a_row"] == 11
    assert [r["metrics"]["step"] for r in after] == [r["metrics"]["step"] for r in whole[2:]]


@pytest.mark.parametrize("trainable", TRAINABLES, ids=lambda t: t.variant)
def test_channels_last_changes_the_layout_and_not_the_step(trainable: Vision) -> None:
    """Two layouts in one fused step would add elements that do not belong together."""
    draw = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(24, 1, 8, 8, generator=draw, dtype=torch.float64), torch.arange(24) % 10)
        for _ in range(6)
    ]
    weights = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = build("small_cnn", (1, 8, 8), 10, 0).double().to(memory_format=layout)
        seen: set[bool] = set()

        def see(layer: nn.Module, _: Any, seen: set[bool] = seen) -> None:
            seen.add(layer.weight.is_contiguous(memory_format=torch.channels_last))

        model[3].register_forward_pre_hook(see)
        variant = variant_of(trainable, model, **UNDRAWN.get(trainable.variant, {}))
        for inputs, labels in batches:
            inputs = inputs.contiguous(memory_format=layout)
            variant.step(GradientOracle(model, inputs, labels, double_loss))
        assert seen == {layout == torch.channels_last}, "in every pass"
        weights.append([p.detach() for p in model.parameters()])
    for p, q in zip(*weights, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("trainable", TRAINABLES, ids=lambda t: t.variant)
def test_a_state_of_one_layout_goes_on_in_the_other(trainable: Vision) -> None:
    """A GPU's checkpoint has other layouts, and fused kernels do not check that they agree."""
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(6, 24, 1, 8, 8, generator=draw, dtype=torch.float64)
    labels = torch.arange(24) % 10

    def placed(layout: torch.memory_format) -> tuple[nn.Module, Variant]:
        model = build("small_cnn", (1, 8, 8), 10, 0).double().to(memory_format=layout)
        return model, variant_of(trainable, model, **UNDRAWN.get(trainable.variant, {}))

    def train(model: nn.Module, variant: Variant, batches: Tensor) -> None:
        for x in batches:
            variant.step(GradientOracle(model, x, labels, double_loss))

    for first, second in itertools.permutations((torch.contiguous_format, torch.channels_last)):
        model, variant = placed(first)
        train(model, variant, inputs[:3])
        other, its_variant = placed(second)
        other.load_state_dict(model.state_dict())
        its_variant.load_state_dict(variant.state_dict())
        train(model, variant, inputs[3:])
        train(other, its_variant, inputs[3:])
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)


UNDRAWN = {"esam": {"beta": 1.0}, "sparse_sam": {"sparsity": 0.0}}
"""Knobs without random draws, which follow the order of the elements in memory."""


def double_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def variant_of(trainable: Vision, model: nn.Module, **knobs: Any) -> Variant:
    if trainable.variant_class is BayesianSAM:
        # So much data that the posterior is a point, and the noise none.
        return BayesianSAM(model.parameters(), n_data=10**40, **knobs)
    base = BASES[trainable.bases[0]]
    return trainable.variant_class(base.build(model.parameters(), lr=0.01), **knobs)


def test_a_resumed_channels_last_trial_is_bitwise_one_that_never_stopped(tmp_path: Path) -> None:
    task = {"memory_format": "channels_last", "augment": "cutout", "cutmix": 1.0, "mixup": 0.2}
    config = config_of(vision.sam, **task)
    whole, after = whole_and_resumed(config, tmp_path)
    assert losses(after) == losses(whole)
    ours, theirs = state_of(after[-1])["model"], state_of(whole[-1])["model"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_deterministic_trial_uses_no_other_kernels() -> None:
    """GPU defect 17. CUDA is asked for the same bits in every run.

    Which kernels of CUDA give the same bits is torch's word; without a device only the refusals
    are tested, by `tests/fakegpu`.
    """
    seen = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return cross_entropy(0)(outputs, targets)

    config = config_of(vision.sam, train_size=0.15)
    plain = train(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainables.steps.cross_entropy", lambda smoothing: loss)
        found = train(replace(config, task={**config.task, "deterministic": True}))
    assert set(seen) == {True}
    assert losses(found) == losses(plain)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_that_is_never_deterministic_is_named_with_a_way_out() -> None:
    said = r"task\.deterministic: put_ has no kernel .*; set task\.deterministic to false"
    with pytest.raises(DeviceError, match=said), deterministic(True):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    with pytest.raises(RuntimeError, match=r"^other$"), deterministic(True):
        raise RuntimeError("other")
    assert not torch.are_deterministic_algorithms_enabled()
