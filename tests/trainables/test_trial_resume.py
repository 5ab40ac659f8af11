"""A trial that goes on from a checkpoint of its own is one that was never cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digits_trial import ALL, CutError, Report, assert_bitwise_equal, config_of, curve, train

from samtune.trial import Budget, Seeds, running
from trainables import checkpoint, vision
from trainables.models import MODELS
from trainables.models.small_cnn import small_cnn

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("trainable", "base"),
    [
        *((t, b) for t in ALL for b in t.bases if t is vision.sam or b in {"sgd", "adamw"}),
        (vision.sam, "torch.optim.NAdam"),
    ],
    ids=str,
)
def test_a_resumed_trial_is_bitwise_one_that_never_stopped(
    trainable: vision.Vision, base: str, tmp_path: Path
) -> None:
    epochs = 4
    config = config_of(trainable, base, budget=Budget("epochs", epochs - 0.5))
    whole = train(replace(config, checkpoint_dir=str(tmp_path / "whole")))
    for cut_at in range(1, epochs + 1):
        cut = replace(config, checkpoint_dir=str(tmp_path / f"cut-{cut_at}"))
        with pytest.raises(CutError):
            train(cut, cut_at)
        checkpoint.seed_rng(1234)
        after = train(cut)
        assert curve(after) == curve(whole[cut_at - 1 :])
        ours, theirs = (
            checkpoint.load(Path(reports[-1]["checkpoint"])) for reports in (after, whole)
        )
        for part in ("model", "optimizer", "ranks"):
            assert_bitwise_equal(ours[part], theirs[part])


@pytest.fixture
def dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small CNN that draws from torch's global generator in each training pass."""

    def with_dropout(in_shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Dropout(0.3), small_cnn(in_shape, classes))

    monkeypatch.setitem(MODELS, "small_cnn", with_dropout)


@pytest.mark.usefixtures("dropout")
def test_a_resumed_trial_draws_the_dropout_masks_it_would_have_drawn(tmp_path: Path) -> None:
    config = config_of(vision.sam, budget=Budget("epochs", 3))
    whole = curve(train(config))
    checkpoint.seed_rng(99)
    assert curve(train(config)) == whole, "equal seeds mean equal masks in a warm worker too"
    cut = replace(config, checkpoint_dir=str(tmp_path))
    with pytest.raises(CutError):
        train(cut, cut_at=2)
    checkpoint.seed_rng(1234)
    assert curve(train(cut)) == whole[1:]


def test_a_resume_from_a_damaged_checkpoint_starts_one_epoch_earlier(tmp_path: Path) -> None:
    config = config_of(vision.sam, budget=Budget("epochs", 3), checkpoint_dir=str(tmp_path))
    whole = curve(train(replace(config, checkpoint_dir=None)))
    with pytest.raises(CutError):
        train(config, cut_at=2)
    file = tmp_path / "epoch-00002" / "state.pt"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    resumed = train(config)
    assert curve(resumed) == whole
    assert [len(report["warnings"]) for report in resumed] == [1, 0, 0]
    assert "epoch-00002 is damaged" in resumed[0]["warnings"][0]


def test_the_checkpoint_lies_on_disk_when_its_report_is_sent(tmp_path: Path) -> None:
    config = config_of(vision.sgd, checkpoint_dir=str(tmp_path))
    seen = []

    def send(report: Report) -> None:
        saved = checkpoint.verify(Path(report["checkpoint"]))
        assert saved.sha256 == report["checkpoint_sha256"]
        assert checkpoint.latest(tmp_path) == saved.path
        seen.append(report["epoch"])

    with running(config, send):
        vision.sgd(config)
    assert seen == [1, 2]


def test_a_checkpoint_from_before_a_word_of_the_task_goes_on(tmp_path: Path) -> None:
    config = config_of(vision.sgd, budget=Budget("epochs", 2), checkpoint_dir=str(tmp_path))
    with pytest.raises(CutError):
        train(config, cut_at=1)
    state = checkpoint.load(tmp_path / "epoch-00001")
    del state["trial"]["task.average"], state["average"], state["counters"]["averaged_samples"]
    checkpoint.save(tmp_path, 1, state)
    assert [report["epoch"] for report in train(config)] == [1, 2]
    with pytest.raises(
        checkpoint.CheckpointError, match=r"average is 'none' there and 'ema' here"
    ):
        train(replace(config, task={**config.task, "average": "ema"}))


def test_a_checkpoint_of_another_trial_is_refused(tmp_path: Path) -> None:
    config = config_of(vision.sgd, checkpoint_dir=str(tmp_path))
    train(config)
    other = replace(config, knobs={"lr": 0.1}, seeds=Seeds(8, 2, 3))
    with pytest.raises(
        checkpoint.CheckpointError,
        match=r"knobs\.lr is 0\.05 there and 0\.1 here; seeds\.init is 1 there and 8 here",
    ):
        train(other)


def test_a_trial_that_has_used_its_seconds_still_ends_as_one(tmp_path: Path) -> None:
    """The trial must make a step and report, also to open the test split."""
    budget = Budget("seconds", 1000)
    config = config_of(vision.sgd, budget=budget, checkpoint_dir=str(tmp_path), test_permit="yes")
    with pytest.raises(CutError):
        train(config, cut_at=1)
    first, last = train(replace(config, used=999.999))
    assert (first["epoch"], last["epoch"]) == (1, 2) and last["checkpoint"]
    assert last["metrics"]["step"] == first["metrics"]["step"] + 1
    assert "test_acc" not in first["metrics"] and "test_acc" in last["metrics"]
    (again,) = train(replace(config, used=last["used"]))
    assert again["metrics"] == last["metrics"], "it had ended"
