"""EMA and SWA of the weights: their values and statistics, and that the training is the same."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_trial import MEASURED, CutError, assert_bitwise_equal, config_of
from torch import nn
from torch.optim.swa_utils import update_bn

from samtune.space.search_space import SearchSpace, SpaceError
from samtune.trial import Budget, running
from trainables import averaging, checkpoint, vision
from trainables.augment import Normaliser
from trainables.averaging import Average
from trainables.data import load
from trainables.evaluation import Predictor, evaluate
from trainables.models import MODELS, ModelError, build
from trainables.precision import Precision, compile_forward
from trainables.task import TASK

pytestmark = pytest.mark.usefixtures("one_thread")

EPOCHS = 4
NEW = ("val_loss_averaged", "val_acc_averaged", "averaged_forward_samples")
EMA = {"average": "ema", "batch_size": 500}
SWA = {"average": "swa", "average_start": 0.5, "batch_size": 200}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network with BatchNorm, dropout, and buffers that no average may change."""

    def model(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
        block = nn.Conv2d(in_shape[0], 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU()
        network = nn.Sequential(*block, nn.Dropout(0.2), nn.Flatten(), nn.Linear(36, classes))
        network.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        network.register_buffer("index", torch.arange(5))
        return network

    monkeypatch.setitem(MODELS, "small_cnn", model)


def trained(
    task: dict[str, Any], folder: Path | None = None, cut_at: int | None = None, **changes: Any
) -> tuple[list[dict[str, float]], list[dict[str, Any]]]:
    """Return the metrics of each epoch without times, and its checkpoint."""
    config = config_of(vision.sam, budget=Budget("epochs", EPOCHS))
    config = replace(config, checkpoint_dir=folder and str(folder), **changes)
    config = replace(config, task={"model": "small_cnn", "label_noise": 0.4, **task})
    metrics, states = [], []

    def send(report: dict[str, Any]) -> None:
        metrics.append({k: v for k, v in report["metrics"].items() if k not in MEASURED})
        if folder is not None:
            states.append(checkpoint.load(Path(report["checkpoint"])))
        if report["epoch"] == cut_at:
            raise CutError

    with running(config, send):
        getattr(vision, config.variant)(config)
    return metrics, states


def figures_of(
    state: dict[str, torch.Tensor], *, renew: bool, precision: str = "auto"
) -> dict[str, float]:
    """Return the loss and the accuracy of weights, whose statistics torch may count anew."""
    data = load({**{name: knob.default for name, knob in TASK.items()}, "label_noise": 0.4}, 3)
    model, normalise = build("small_cnn", (1, 8, 8), 10, seed=1), Normaliser(data.mean, data.std)
    model.load_state_dict(state)
    if renew:
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        [(images, _)] = data.train.batches(
            torch.arange(len(data.train)), 10**4, torch.device("cpu")
        )
        update_bn(normalise(images).split(200), model)
    words = {name: knob.default for name, knob in TASK.items()} | {"precision": precision}
    how = Precision.of(words, torch.device("cpu"))
    return evaluate(Predictor(model, normalise, how), data.val)


def test_swa_is_the_mean_over_epochs_with_statistics_of_its_own(tmp_path: Path) -> None:
    metrics, states = trained(SWA, tmp_path)
    assert metrics[0]["val_acc_averaged"] == metrics[0]["val_acc"], "before it begins"
    assert [m["averaged_forward_samples"] for m in metrics] == [0, 1297, 2594, 3891]
    for last in (2, 3):
        chosen = [states[epoch]["model"] for epoch in range(1, last + 1)]
        mean = {name: sum(s[name] for s in chosen) / last for name in chosen[0]}
        mean |= {name: states[0]["model"][name] for name in ("mask", "index")}
        expected = figures_of(mean, renew=True)
        assert metrics[last]["val_acc_averaged"] == expected["acc"]
        assert metrics[last]["val_loss_averaged"] == pytest.approx(expected["loss"], rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_ema_follows_weights_and_statistics_after_each_step(
    precision: str, tmp_path: Path
) -> None:
    """The whole data set is one batch, so that each checkpoint is one step."""
    words = {**EMA, "batch_size": 1000, "average_decay": 0.3, "precision": precision}
    metrics, states = trained(words, tmp_path)
    mean = states[0]["model"]
    for count, state in enumerate(states[1:], 1):
        share = 1 - min(0.3, (1 + count) / (10 + count))
        for name, now in state["model"].items():
            if now.is_floating_point() and name != "mask":
                mean[name] = torch.lerp(mean[name], now, share)
        expected = figures_of(mean, renew=False, precision=precision)
        assert metrics[count]["val_loss_averaged"] == pytest.approx(expected["loss"], rel=1e-5)
        assert metrics[count]["val_loss_averaged"] != metrics[count]["val_loss"]
        found = state["average"]
        assert torch.equal(found["module.index"], torch.arange(5))
        assert torch.equal(found["module.mask"], torch.tensor([0.0, -torch.inf]))
        assert found["module.1.num_batches_tracked"] == count + 1


@pytest.mark.parametrize(
    "words",
    [EMA, {**SWA, "precision": "bf16"}, {**SWA, "precision": "fp16"}],
    ids=["ema", "swa bf16", "swa fp16"],
)
@pytest.mark.parametrize("name", ["bayesian_sam", "look_sam"])
def test_an_average_changes_no_other_figure_and_costs_no_see(name: str, words: Any) -> None:
    changes = {"variant": name, "base": "sgd", "knobs": {}, "test_permit": "a test"}
    budget = Budget("epochs", 2)
    with_it, _ = trained(words, budget=budget, **changes)
    without, _ = trained({**words, "average": "none"}, budget=budget, **changes)
    on_test = {f"test_{figure}_averaged" for figure in ("acc", "loss", "ece", "brier")}
    added = with_it[-1].keys() - without[-1].keys()
    assert added == {*NEW, *on_test}
    assert with_it[-1]["test_loss_averaged"] != with_it[-1]["test_loss"]
    kept = [{k: v for k, v in each.items() if k not in added} for each in with_it]
    assert kept == without


@pytest.mark.parametrize("words", [EMA, SWA], ids=["ema", "swa"])
def test_a_resumed_trial_has_the_same_average(words: dict[str, Any], tmp_path: Path) -> None:
    whole, states = trained(words, tmp_path / "whole")
    for cut_at in range(1, EPOCHS):
        with pytest.raises(CutError):
            trained(words, tmp_path / str(cut_at), cut_at)
        rest, again = trained(words, tmp_path / str(cut_at))
        assert rest == whole[cut_at - 1 :]
        assert_bitwise_equal(again[-1]["average"], states[-1]["average"])


def test_the_average_is_shown_and_the_weights_come_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(model, "swa", 0.999, 0.5)
    average.update(0.4)
    first = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model[0].weight += 1
    before = copy.deepcopy(model.state_dict())
    with average.shown():
        assert_bitwise_equal(dict(model.state_dict()), dict(before))
    average.update(0.5)
    with torch.no_grad():
        model[0].weight += 2
    average.update(1.0)
    with pytest.raises(CutError), average.shown():
        assert torch.allclose(model[0].weight, first["0.weight"] + 2)
        raise CutError
    assert torch.equal(model[0].weight, before["0.weight"] + 2)


def test_a_model_that_cannot_be_copied_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(nn.Linear):
        def __deepcopy__(self, memo: object) -> None:
            raise TypeError("it holds a lock")

    def fixed(in_shape: object, classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), Fixed(64, classes))

    monkeypatch.setitem(MODELS, "small_cnn", fixed)
    task = {name: knob.default for name, knob in TASK.items()}
    vision.sam.make_ready(task)
    # What a run of an older samtune lacks.
    older = ("average", "unfreeze_at", "graph")
    vision.sam.make_ready({name: task[name] for name in task if name not in older})
    with pytest.raises(ModelError, match=r"cannot be copied \(it holds a lock\); leave out"):
        vision.sam.make_ready({**task, "average": "ema"})
    averaging.check(nn.Linear(2, 2))


def test_a_search_may_improve_an_average_that_there_is() -> None:
    words = ["search.metric=val_acc_averaged"]
    assert (
        SearchSpace.load("sam", [*words, "task.average=ema"]).search.metric == "val_acc_averaged"
    )
    with pytest.raises(SpaceError, match="'val_acc_averaged' is not reported"):
        SearchSpace.load("sam", words)


@pytest.mark.slow
def test_a_compiled_model_shows_the_average_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "trainables.precision.compile_forward",
        lambda model, program, **_: compile_forward(model, program, backend="eager"),
    )
    words = {**SWA, "average_start": 0.0, "freeze": "0", "unfreeze_at": 0.5}
    budget = Budget("epochs", 2)
    compiled, plain = (trained({**words, "compile": on}, budget=budget)[0] for on in (True, False))
    for one, other in zip(compiled, plain, strict=True):
        assert one["val_loss_averaged"] == pytest.approx(other["val_loss_averaged"], rel=1e-4)
        assert one["val_loss_averaged"] != one["val_loss"]
    assert "Graph break" not in capfd.readouterr().err
