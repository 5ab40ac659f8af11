"""Frozen parameters, and those that are trained from some share of the budget on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_trial import MEASURED, CutError, assert_bitwise_equal, config_of
from torch import Tensor, nn

from samtune.optimizers import VARIANTS
from samtune.space.search_space import SearchSpace, SpaceError
from samtune.trial import Budget, running
from trainables import checkpoint, vision
from trainables.models import MODELS, ModelError, build
from trainables.models.freezing import Frozen

pytestmark = pytest.mark.usefixtures("one_thread")

BODY = ("0.weight", "0.bias", "1.weight", "1.bias")
STATISTICS = ("1.running_mean", "1.running_var", "1.num_batches_tracked")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the small CNN by a body with BatchNorm and a head with another one."""

    def model(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
        body = nn.Conv2d(in_shape[0], 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU()
        return nn.Sequential(*body, nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, classes))

    monkeypatch.setitem(MODELS, "small_cnn", model)


def trained(
    variant: str, folder: Path, cut_at: int | None = None, **task: Any
) -> tuple[list[dict[str, float]], list[dict[str, Any]]]:
    """Return the metrics of two epochs of two steps, without times, and their checkpoints."""
    trainable = getattr(vision, variant)
    config = replace(
        config_of(trainable, (trainable.bases or ("none",))[0]),
        budget=Budget("epochs", 2),
        knobs={},
        checkpoint_dir=str(folder),
        task={"model": "small_cnn", "batch_size": 500, **task},
    )
    metrics, states = [], []

    def send(report: dict[str, Any]) -> None:
        metrics.append({k: v for k, v in report["metrics"].items() if k not in MEASURED})
        states.append(checkpoint.load(Path(report["checkpoint"])))
        if report["epoch"] == cut_at:
            raise CutError

    with running(config, send):
        trainable(config)
    return metrics, states


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_frozen_stays_and_is_trained_once_it_thaws(variant: str, tmp_path: Path) -> None:
    first = build("small_cnn", (1, 8, 8), 10, seed=1).state_dict()
    half = {"freeze": "0, 1", "unfreeze_at": 0.5}
    metrics, (before, after) = trained(variant, tmp_path / "half", **half)
    for name in (*BODY, *STATISTICS):
        assert torch.equal(before["model"][name], first[name])
        assert not torch.equal(after["model"][name], first[name])
    assert not torch.equal(before["model"]["5.weight"], first["5.weight"])
    with pytest.raises(CutError):
        trained(variant, tmp_path / "cut", 1, **half)
    again, states = trained(variant, tmp_path / "cut", **half)
    assert again == metrics
    for part in ("model", "optimizer"):
        assert_bitwise_equal(states[-1][part], after[part])


def test_the_words_say_when_it_thaws(tmp_path: Path) -> None:
    """At 0 nothing was ever frozen, at 1 it never thaws, and till then both are alike."""
    shares = {"start": 0.0, "half": 0.5, "never": 1.0}
    start, half, never = (
        trained("sam", tmp_path / name, freeze="0, 1", unfreeze_at=share)[0]
        for name, share in shares.items()
    )
    plain, _ = trained("sam", tmp_path / "plain")
    assert start == plain
    assert half[0] == never[0] and half[1] != never[1]


def test_an_average_keeps_the_statistics_of_what_is_frozen(tmp_path: Path) -> None:
    words = {"freeze": "0, 1", "average": "swa", "average_start": 0.0}
    _, (_, state) = trained("sam", tmp_path, **words)
    for name in (*BODY, *STATISTICS):
        assert torch.equal(state["average"][f"module.{name}"], state["model"][name])
    name = "4.running_mean"
    assert not torch.equal(state["average"][f"module.{name}"], state["model"][name])


def test_batch_norm_is_frozen_with_its_weights_or_with_the_module_around_it() -> None:
    class Block(nn.Sequential):
        pass

    class Own(nn.modules.batchnorm._BatchNorm):
        def _check_input_dim(self, input: Tensor) -> None:
            pass

    model = nn.Sequential(Block(nn.Conv2d(1, 2, 3), Own(2, affine=False)), nn.BatchNorm2d(2))
    frozen = Frozen(model, ["0"], 1.0)
    frozen.train()
    assert [m.training for m in (model, model[0][0], model[0][1], model[1])] == [1, 1, 0, 1]
    frozen = Frozen(model, ["1.weight"], 1.0)
    frozen.train()
    assert model[1].training, "its bias is trained"
    with pytest.raises(ModelError, match=r"'block1' matches no parameter \(there are: 0.0.weight"):
        Frozen(model, ["block1"], 1.0)


def test_a_space_takes_patterns_as_a_list(tmp_path: Path) -> None:
    space = SearchSpace.load("sam", ["task.freeze=['0', 1, '3.*']", "task.unfreeze_at=0.4"])
    assert space.task["freeze"] == "0, 1, 3.*" and space.task["unfreeze_at"] == 0.4
    assert SearchSpace.load("sam", ["task.classes=[3, 5]"]).task["classes"] == "3,5"
    none = SearchSpace.load("sam", ["task.classes=[]", "task.freeze=[]"]).task
    assert none["classes"] == none["freeze"] == ""
    with pytest.raises(SpaceError, match=r"task\.batch_size: a list where one value belongs"):
        SearchSpace.load("sam", ["task.batch_size=[64, 128]"])
    with pytest.raises(SpaceError, match=r"unfreeze_at is 0\.4 and nothing is frozen; name"):
        SearchSpace.load("sam", ["task.unfreeze_at=0.4"])
