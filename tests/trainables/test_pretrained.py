"""Fine-tuning: weights from a file, frozen parameters, dropout, and timm's models."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from test_task import train
from torch import nn

from samtune.optimizers.knobs import KnobError
from samtune.trial import Budget
from trainables import vision
from trainables.models import ModelError, build, build_for, check_name
from trainables.task import TASK

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS = (1, 8, 8)
DEFAULTS = {name: knob.default for name, knob in TASK.items()}


def built(classes: int = 10, **task: Any) -> nn.Module:
    return build_for({**DEFAULTS, **task}, DIGITS, classes, seed=1)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The weights of a small_cnn of ten classes, drawn from another seed."""
    torch.save(build("small_cnn", DIGITS, 10, seed=2).state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


def test_weights_are_those_of_the_file(saved: Path) -> None:
    wanted = torch.load(saved)
    found = built(weights=str(saved)).state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"_orig_mod.{name}": tensor.half() for name, tensor in state.items()},
    ],
)
def test_weights_as_other_programs_save_them(saved: Path, wrap: Any) -> None:
    wanted = torch.load(saved)
    torch.save(wrap(wanted), saved)
    found = built(weights=str(saved)).state_dict()
    assert all(torch.allclose(found[name], wanted[name], atol=1e-3) for name in wanted)


def test_a_head_for_other_classes_is_drawn_anew_and_said_so(saved: Path) -> None:
    wanted, drawn = torch.load(saved), built(4).state_dict()
    with pytest.warns(UserWarning, match="the head 11 is drawn anew, .* 4 outputs and 10 in"):
        found = built(4, weights=str(saved)).state_dict()
    for name in wanted:
        same = drawn if name.startswith("11.") else wanted
        assert torch.equal(found[name], same[name])


def missing(state: dict[str, torch.Tensor]) -> object:
    state.pop("0.weight")
    return state


def wide(state: dict[str, torch.Tensor]) -> object:
    state["0.weight"] = torch.zeros(16, 3, 3, 3)
    return state


def damaged(state: dict[str, torch.Tensor]) -> object:
    state["3.weight"][0] = torch.nan
    return state


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (missing, "of another model: 0.weight missing in the file, none only there"),
        (wide, r"0.weight has shape \(16, 3, 3, 3\) in the file and \(16, 1, 3, 3\) in the model"),
        (damaged, "damaged: 3.weight is not finite"),
        (lambda _: [1, 2], "hold a list, not a state dict"),
        (lambda _: {}, "hold a dict, not a state dict"),
        (lambda _: {"lr": 0.1}, "'lr' is a float, not a tensor"),
        (lambda _: nn.Linear(2, 2), r"cannot be read as a state dict: .*torch.save\(model.state"),
    ],
)
def test_weights_that_do_not_fit_are_refused(saved: Path, change: Any, match: str) -> None:
    torch.save(change(torch.load(saved)), saved)
    with pytest.raises(ModelError, match=match):
        built(weights=str(saved))


def test_a_file_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"there is no file /no/such\.pt"):
        built(weights="/no/such.pt")
    (tmp_path / "w.pt").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"w\.pt cannot be read as a state dict"):
        built(weights=str(tmp_path / "w.pt"))
    monkeypatch.chdir(tmp_path)
    assert TASK["weights"].check("w.pt") == str(tmp_path / "w.pt")
    assert TASK["weights"].check("") == ""
    with pytest.raises(KnobError, match="weights is 3; it must be the path of a file"):
        TASK["weights"].check(3)
    with pytest.raises(ModelError, match="there is no file"):
        vision.sam.make_ready({**DEFAULTS, "weights": str(tmp_path / "none.pt")})


def test_a_trial_starts_from_its_weights(saved: Path) -> None:
    one, other = (train(weights=words)[0]["metrics"] for words in (str(saved), ""))
    assert one["train_loss"] != other["train_loss"]
    (report,) = train(weights=str(saved), classes="3,5")
    assert [w for w in report["warnings"] if "the head 11 is drawn anew" in w]


@pytest.mark.parametrize("name", ["sam", "bayesian_sam", "look_sam", "gsam"])
def test_frozen_parameters_do_not_move(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[nn.Module] = []

    def kept(*args: Any) -> nn.Module:
        models.append(build_for(*args))
        return models[-1]

    monkeypatch.setattr("trainables.loop.build_for", kept)
    train(getattr(vision, name), budget=Budget("epochs", 1), freeze="0, 3.*")
    before = build("small_cnn", DIGITS, 10, seed=1).state_dict()
    after = dict(models[0].named_parameters())
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    assert moved == {key for key in after if key not in ("0.weight", "3.weight")}


@pytest.mark.parametrize(
    ("patterns", "match"),
    [
        ("layer1", r"'layer1' matches no parameter \(there are: 0.weight, 1.weight, 1.bias and"),
        ("*", "freeze leaves no parameter to train"),
    ],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(patterns: str, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        built(freeze=patterns)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wrn_16_8"])
def test_dropout_acts_in_training_alone(name: str) -> None:
    image = torch.randn(2, 3, 32, 32)
    plain, dropping = (build(name, (3, 32, 32), 10, 1, rate) for rate in (0.0, 0.4))
    states = plain.state_dict(), dropping.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert torch.equal(plain.eval()(image), dropping.eval()(image))
    dropping.train()
    assert not torch.equal(dropping(image), dropping(image))
    blocks = sum(isinstance(module, nn.Dropout) for module in dropping.modules())
    assert blocks == {"resnet18": 8, "resnet50": 16, "wrn_16_8": 6}[name]
    assert not any(isinstance(module, nn.Dropout) for module in plain.modules())


def test_dropout_where_there_is_none_is_refused() -> None:
    with pytest.raises(ModelError, match=r"small_cnn has no dropout; .* or take one of resnet18"):
        built(dropout=0.3)


def test_timms_models() -> None:
    timm = pytest.importorskip("timm", reason="the extra samtune[timm]")
    check_name("timm:resnet18")
    assert "resnet18" in timm.list_models()
    with pytest.raises(ModelError, match="timm has no model 'resnet_18'; did you mean 'resnet"):
        check_name("timm:resnet_18")
    first, again, other = (
        build("timm:resnet10t", DIGITS, 7, seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert first["conv1.0.weight"].shape[1] == 1 and len(other["fc.bias"]) == 7
    vit = build("timm:vit_tiny_patch16_224", (3, 32, 32), 5, 1)
    assert vit(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"timm:resnet18 needs timm, .*'samtune\[timm\]'"):
        check_name("timm:resnet18")


def test_a_timm_model_is_asked_for_without_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded, whatever timm is installed."""
    asked: dict[str, Any] = {}

    def create_model(name: str, **options: Any) -> nn.Module:
        asked.update(options, name=name)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, options["num_classes"]))

    fake = types.ModuleType("timm")
    fake.is_model = lambda name: name == "net"
    fake.list_models = lambda: ["net"]
    fake.get_pretrained_cfg = lambda name: types.SimpleNamespace(fixed_input_size=True)
    fake.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", fake)
    build("timm:net", DIGITS, 10, 1)
    assert asked == {
        **{"name": "net", "pretrained": False, "num_classes": 10, "in_chans": 1},
        "img_size": (8, 8),
    }
    with pytest.raises(ModelError, match=r"timm has no model 'nett'; did you mean 'net'\?"):
        check_name("timm:nett")
