"""The loop outside the steps: batches, evaluation, checkpoints and the ends of epochs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gpu import counted, launches, logged, run, trial

from benchmarks.launches import RESULT, of_epochs
from samtune.cluster.nvidia import gpus_of_driver
from trainables import data, saver, split
from trainables.augment import KINDS, Augment, Normaliser
from trainables.batches import Batches
from trainables.evaluation import Predictor, _at_a_time
from trainables.parallel import Ranks
from trainables.precision import Precision
from trainables.split import Split
from trainables.targets import Mixer

COUNTED = json.loads(RESULT.read_text())
# Launches of a batch outside the step; one more for what an epoch has once.
BATCH = {kind: COUNTED["batches"][kind]["launches"] + 1 for kind in KINDS}


@pytest.mark.parametrize("kind", BATCH)
def test_no_batch_waits_for_the_device(kind: str) -> None:
    """GPU defect 5. RandAugment makes its constants once, and not in four waits per step."""
    with logged() as log:
        run(task={"augment": kind, "precision": "fp32", "batch_size": 8, "train_size": 124})
    _, second = log.methods["_train_epoch"]
    assert len(log.steps) == 32
    # The sums, once an epoch.
    assert second["WAIT"] == 1, log.waits
    assert second["H2D"] == 0
    assert launches(second) / 16 <= BATCH[kind], second


@pytest.mark.parametrize("kind", KINDS)
def test_coloured_images_are_augmented_without_a_wait(kind: str) -> None:
    """GPU defect 5, in colours: digits are grey, and need fewer constants."""
    gpu = torch.device("cuda")
    augment = Augment(kind, Normaliser(torch.zeros(3, device=gpu), torch.ones(3, device=gpu)), 1)
    images = torch.zeros((8, 3, 16, 16), dtype=torch.uint8, device=gpu)
    augment(images)
    with counted() as found:
        assert augment(images).shape == images.shape
    assert (found["WAIT"], found["H2D"]) == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_gets_its_part_of_several_batches_without_a_wait(kind: str) -> None:
    gpu = torch.device("cuda")
    train = data.load(trial().task, 3).train.resident(gpu)
    augment = Augment(kind, Normaliser(torch.zeros(1, device=gpu), torch.ones(1, device=gpu)), 1)
    mix = Mixer(0.0, 0.0, 10, 1)
    ranks = [Ranks(rank, 2, None) for rank in (0, 1)]
    first, second = (Batches(train, [20] * 15, augment, mix, gpu, each) for each in ranks)
    [*first.epoch(1)]
    with counted() as found:
        shapes = [(x.shape[0], y.shape[0], x.device.type) for _, x, y in second.epoch(1)]
    assert shapes == [(10, 10, "cuda")] * 15
    # The order, and the places of this rank's images in two groups of batches.
    assert (found["WAIT"], found["H2D"], found["H2D_PINNED"]) == (0, 0, 1 + 2)


def test_an_epoch_ends_with_as_many_waits_as_are_published() -> None:
    assert of_epochs() == COUNTED["epochs"]


@pytest.mark.parametrize("task", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
def test_no_mixed_batch_waits_for_the_device(task: dict[str, float]) -> None:
    """GPU defect 2. A permutation from pageable memory would be a wait in every step."""
    with logged() as log:
        run(task={"precision": "fp32", **task})
    assert [epoch["WAIT"] for epoch in log.methods["_train_epoch"]] == [1, 1], log.waits
    assert sum(epoch["H2D_PINNED"] for epoch in log.methods["_train_epoch"]) >= 6


@pytest.mark.parametrize("average", ["ema", "swa"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_average_of_the_weights_adds_no_wait_per_layer(average: str, precision: str) -> None:
    words = {"average": average, "average_start": 0.0, "precision": precision}
    with logged() as log:
        reports = run(task=words)
    assert all("val_acc_averaged" in report["metrics"] for report in reports)
    _, second = log.methods["_train_epoch"]
    # The sums, once an epoch.
    assert (second["WAIT"], second["H2D"]) == (1, 0), log.waits
    # What an evaluation waits for, whatever the number of layers and batches.
    assert [found["WAIT"] for found in log.methods["_averaged"]] == [2, 2], log.waits


def test_the_mixer_sends_its_permutation_from_pinned_memory() -> None:
    """GPU defect 2. The mixer by itself, without a trial."""
    mixer = Mixer(0.2, 0.0, 10, seed=1)
    images, labels = torch.zeros(8, 1, 4, 4, device="cuda"), torch.zeros(8, device="cuda").long()
    mixer(images, labels)
    with counted() as found:
        mixer(images, labels)
    assert (found["WAIT"], found["H2D"], found["H2D_PINNED"]) == (0, 0, 1)


def test_an_evaluation_waits_three_times_at_most() -> None:
    with logged() as log:
        run(task={"precision": "fp32"})
    assert [found["WAIT"] <= 3 for found in log.methods["_validate"]] == [True, True]
    assert [found["WAIT"] for found in log.methods["_costs"]] == [0, 0]


def test_large_images_are_evaluated_in_large_batches_on_a_gpu() -> None:
    """GPU defect 10. A CPU takes 20 images of 224 pixels at a time. The speed needs a real GPU."""
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert _at_a_time(224 * 224, cpu) == 20
    assert _at_a_time(224 * 224, gpu) == 334
    assert _at_a_time(32 * 32, gpu) == _at_a_time(32 * 32, cpu) == 1024
    few = torch.arange(40)
    images = Split(torch.zeros((40, 1, 224, 224), dtype=torch.uint8), few, few).resident(gpu)
    task = {"precision": "fp32", "memory_format": "auto", "compile": False, "combo_kernels": False}
    model, sizes = torch.nn.Flatten(), []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    normalise = Normaliser(torch.zeros(1, device=gpu), torch.ones(1, device=gpu))
    Predictor(model, normalise, Precision.of(task, gpu))(images)
    assert sizes == [40]


def test_a_share_of_a_gpu_holds_a_share_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU defect 16. The images may take 40 % of the free memory, times the share of the trial."""
    monkeypatch.setattr(split, "_copies", {})
    train = data.load(trial().task, 3).train
    nbytes = len(train) * train.images[0].nbytes
    total = torch.cuda.mem_get_info()[1]
    fits = nbytes / 0.4 / total
    gpu = torch.device("cuda")
    assert train.resident(gpu, 0.9 * fits) is train
    assert train.resident(gpu, 1.1 * fits).images.is_cuda
    split._copies.clear()
    sent = []
    for share in (0.9 * fits, 1.1 * fits):
        with logged() as log:
            run(task={"precision": "fp32"}, gpus=share)
        sent.append([epoch["H2D_PINNED"] for epoch in log.methods["_train_epoch"]])
    # Images and labels of each group of batches, or the order alone.
    assert sent == [[2, 2], [1, 1]]


def test_images_that_do_not_fit_are_sent_from_pinned_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(split, "_copies", {})
    monkeypatch.setattr(split, "_SHARE", 1e-9)
    with logged() as log:
        run(task={"precision": "fp32"})
    for epoch in log.methods["_train_epoch"]:
        # The sums.
        assert epoch["WAIT"] == 1, log.waits
        # Images and labels of three batches, which are sent together.
        assert (epoch["H2D"], epoch["H2D_PINNED"]) == (0, 2)


def test_the_driver_is_asked_without_torch() -> None:
    """GPU defect 1. Doctor can then warn where the driver sees a GPU that torch cannot use."""
    assert gpus_of_driver() == (1, "580.00", (8 << 30,))


def test_a_checkpoint_is_copied_without_a_wait(tmp_path: Path) -> None:
    """GPU defect 3. No tensor is a blocking copy from the device."""
    with logged() as log:
        run("sam", task={"precision": "fp32"}, checkpoint_dir=str(tmp_path))
    first, second = log.methods["_save"]
    # Weights, statistics and momentum are one copy, and the numbers of batches another.
    assert (first["D2H"], first["D2H_PINNED"]) == (0, 2)
    assert max(first["WAIT"], second["WAIT"]) <= 1
    assert second["HOST_ALLOC"] <= first["HOST_ALLOC"] / 10, "the memory is used again"


def test_a_checkpoint_takes_little_memory_of_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver, "_PACK", 1)
    with logged() as log:
        run("sam", 1, task={"precision": "fp32"}, checkpoint_dir=str(tmp_path))
    [saved] = log.methods["_save"]
    # No two of the weights, buffers and momenta are packed together.
    assert (saved["D2H"], saved["D2H_PINNED"]) == (0, 122 + 62)


def test_the_events_of_the_device_divide_the_time_of_an_epoch() -> None:
    """GPU defect 13. By the host's clock the wait for a full queue could fall into any part."""
    first, second = (report["metrics"] for report in run())
    # The fake device takes 1 ms for anything, so three batches take as long as three steps.
    assert first["data_s"] == pytest.approx(first["train_s"])
    assert second["data_s"] == pytest.approx(second["train_s"])


@pytest.mark.parametrize("kind", BATCH)
def test_a_deterministic_trial_finds_only_kernels_that_are(kind: str) -> None:
    """GPU defect 17. Only the choice is tested: equal bits need a real GPU."""
    seen = []

    def noted(self: torch.nn.Module, *_: object) -> None:
        seen.append((torch.are_deterministic_algorithms_enabled(), benchmark()))

    def benchmark() -> bool:
        return torch.backends.cudnn.benchmark

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "benchmark", True)
        hook = torch.nn.modules.module.register_module_forward_pre_hook(noted)
        try:
            for deterministic in (True, False):
                task = {"augment": kind, "precision": "fp32", "deterministic": deterministic}
                (report,) = run("sam", 1, task={**task, "mixup": 0.2})
                assert report["facts"]["deterministic"] is deterministic
        finally:
            hook.remove()
    assert set(seen) == {(True, False), (False, True)}
