"""Every variant's step on a GPU, through the real loop: its waits and its launches."""

from __future__ import annotations

import pytest
import torch
from gpu import Log, launches, logged, run
from problems import DATA_DEPENDENT
from torch.torch_version import TorchVersion

from samtune.optimizers import VARIANTS
from trainables import loop

TORCH = TorchVersion(torch.__version__)
every_variant = pytest.mark.parametrize("name", VARIANTS)
# Outside the passes, and of the step that launches most: LookSAM's refresh, bSAM's eight chunks.
MOST = {
    "sgd": 3,
    "adamw": 4,
    "momentum_sam": 12,
    "sam": 16,
    "ae_sam": 17,
    "sparse_sam": 17,
    "unified_sam": 17,
    "vasso": 17,
    "look_sam": 19,
    "wsam": 19,
    "asam": 20,
    "k_sam": 20,
    "friendly_sam": 21,
    "look_layer_sam": 21,
    "fisher_sam": 22,
    "esam": 24,
    "gsam": 24,
    "stable_sam": 24,
    "cr_sam": 25,
    "lookbehind_sam": 31,
    "gam": 45,
    "bayesian_sam": 117,
}


@pytest.fixture(scope="module")
def logs() -> dict[str, Log]:
    """Six steps of every variant in fp32 and channels_last; batches of 128, 128 and 44 images."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_COMPARED", 0)
        for name in VARIANTS:
            found[name] = log_of(name)
    return found


def log_of(name: str) -> Log:
    with logged() as log:
        (*_, last) = run(name, task={"precision": "fp32"})
    assert last["facts"]["device"] == "cuda" and last["facts"]["channels_last"]
    return log


@every_variant
def test_no_step_waits_for_the_device(logs: dict[str, Log], name: str) -> None:
    """GPU defect 6. In Sparse SAM, an element set to a number of Python would be a wait."""
    waits = [step["WAIT"] + step["H2D"] for step in logs[name].steps]
    if name in DATA_DEPENDENT:
        assert set(waits) == {1}
    else:
        assert sum(waits) == 0, logs[name].waits
    assert len(waits) == 6 <= len(logs[name].in_passes)
    assert sum(found["WAIT"] + found["H2D"] for found in logs[name].in_passes) == 0


@pytest.mark.parametrize("mask", ["dynamic", "fisher"])
def test_a_mask_is_updated_without_a_wait(mask: str) -> None:
    """GPU defect 6. In the steps in which Sparse SAM chooses its weights anew."""
    task = {"precision": "fp32", "model": "narrow:two_layers"}
    with logged() as log:
        run("sparse_sam", task=task, knobs={"update_freq": 2, "mask": mask, "samples": 2})
    assert len(log.steps) == 6
    every_other = [launches(step) for step in log.steps]
    assert min(every_other[::2]) > max(every_other[1::2]), "these steps choose the mask"
    assert sum(step["WAIT"] + step["H2D"] for step in log.steps) == 0, log.waits


@every_variant
def test_a_step_launches_no_more_than_it_did(logs: dict[str, Log], name: str) -> None:
    # Versions of torch up to 2.11 at least put fewer tensors into one launch.
    most = MOST[name] if TORCH >= "2.14" else int(1.15 * MOST[name]) + 1
    # The first step makes the base's state, tensor by tensor.
    assert max(logs[name].outside[1:]) <= most


def test_the_comparison_of_two_gradients_launches_a_few(logs: dict[str, Log]) -> None:
    """The loop does it in the first ten steps of an epoch. It launches nothing per parameter."""
    log = log_of("sam")
    assert sum(step["WAIT"] for step in log.steps) == 0, log.waits
    assert log.outside[1] - logs["sam"].outside[1] <= 18


@every_variant
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_waits_at_most_for_the_loss_scaler(
    name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if precision == "bf16":
        # The fake cuDNN knows no bf16; torch then computes convolutions by itself.
        monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    task = {"precision": precision, "batch_size": 8, "train_size": 20, "label_noise": 0.0}
    with logged() as log:
        (*_, last) = run(name, 1, task=task)
    assert last["facts"]["precision"] == precision
    assert len(log.steps) == 3
    for step, passes in zip(log.steps, log.passes, strict=True):
        for_scaling = len(passes) if precision == "fp16" else 0
        assert step["WAIT"] <= for_scaling + (name in DATA_DEPENDENT), log.waits
