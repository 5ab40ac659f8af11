"""A trial on a GPU that is cut and goes on from its checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digits_trial import CutError, train
from gpu import trial

from trainables import checkpoint
from trainables.loop import Trial


@pytest.mark.parametrize("name", ["sgd", "sam", "vasso", "look_sam", "bayesian_sam", "sparse_sam"])
def test_a_resumed_trial_has_its_state_and_generators_on_the_gpu(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its dropout draws from the generator of the GPU.
    config = trial(name, 3, checkpoint_dir=str(tmp_path), task={"model": "narrow:dropping"})
    with pytest.raises(CutError):
        train(config, cut_at=2)
    newest = checkpoint.latest(tmp_path)
    assert newest is not None
    saved = checkpoint.load(newest)
    of_cuda = saved["ranks"][0]["rng"]["cuda"]
    assert all(t.device.type == "cpu" for t in tensors_in(saved))
    torch.cuda.manual_seed(99)
    states = []
    epoch = Trial._train_epoch

    def watched(self: Trial) -> dict[str, float]:
        states.append((torch.cuda.get_rng_state(), self.model.state_dict(), self.optimizer))
        return epoch(self)

    monkeypatch.setattr(Trial, "_train_epoch", watched)
    assert [report["epoch"] for report in train(config)] == [2, 3]
    [(generator, model, optimizer)] = states
    assert torch.equal(generator, of_cuda)
    assert all(t.is_cuda for t in model.values())
    of_base = [t for state in optimizer.base.state.values() for t in tensors_in(state)]
    assert of_base or name == "bayesian_sam"
    # What this variant remembers moves as a whole.
    assert all(t.is_cuda for t in tensors_in(optimizer.memory))
    for state in optimizer.base.state.values():
        for t in tensors_in(state):
            assert t.is_cuda
            assert t.dim() != 4 or t.is_contiguous(memory_format=torch.channels_last)


def test_what_a_gpu_has_saved_the_cpu_can_load(tmp_path: Path) -> None:
    config = trial("sam", 2, checkpoint_dir=str(tmp_path), task={"precision": "fp32"})
    with pytest.raises(CutError):
        train(config, cut_at=1)
    newest = checkpoint.latest(tmp_path)
    assert newest is not None
    # CUDA is visible here, so a load would bring a tensor of the GPU to it.
    saved = torch.load(newest / "state.pt", weights_only=True)
    assert {t.device.type for t in tensors_in(saved)} == {"cpu"}
    reports = train(replace(config, gpus=0))
    assert [report["epoch"] for report in reports] == [1, 2]
    assert reports[-1]["facts"]["device"] == "cpu"


def tensors_in(tree: object) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, dict):
        return [t for child in tree.values() for t in tensors_in(child)]
    if isinstance(tree, list | tuple):
        return [t for child in tree for t in tensors_in(child)]
    return []
