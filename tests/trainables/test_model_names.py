"""Models by name: samtune's, torchvision's, and a user's own."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import CIFAR

from trainables.models import MODELS, ModelError, build, check_name

pytestmark = pytest.mark.usefixtures("one_thread")


def test_unknown_names() -> None:
    with pytest.raises(ModelError, match="unknown model 'resnet-18'; did you mean 'resnet18'"):
        check_name("resnet-18")
    with pytest.raises(ModelError) as caught:
        build("transformer", CIFAR, 10, 1)
    listed = ", ".join(MODELS)
    assert str(caught.value) == (
        f"unknown model 'transformer'; there is: {listed}; or torchvision:NAME, timm:NAME, or "
        "your own: my_package.my_module:my_model"
    )
    for name in MODELS:
        check_name(name)


def test_names_are_checked_without_torchvision() -> None:
    code = """
        import sys
        sys.modules["torchvision"] = None  # As if it could not be imported.
        from trainables.models import ModelError, build, check_name
        check_name("resnet18")
        check_name("collections:OrderedDict")
        build("small_cnn", (1, 8, 8), 10, 1)
        assert "timm" not in sys.modules
        try:
            check_name("torchvision:resnet50")
        except ModelError as error:
            print(error)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(
        "torchvision:resnet50 needs torchvision, which cannot be imported"
    )
    assert "or take samtune's own resnet50" in ran.stdout


@pytest.mark.slow
def test_torchvisions_classifiers_by_name() -> None:
    check_name("torchvision:efficientnet_b0")
    with pytest.raises(ModelError, match="no classifier 'resnet5O'; did you mean 'resnet50'"):
        check_name("torchvision:resnet5O")
    with pytest.raises(ModelError, match="torchvision has no classifier 'fcn_resnet50'"):
        check_name("torchvision:fcn_resnet50")  # Segmentation.
    first, again, other = (
        build("torchvision:squeezenet1_1", (3, 64, 64), 7, seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["classifier.1.weight"], other["classifier.1.weight"])
    model = build("torchvision:googlenet", (3, 96, 96), 5, 1)
    assert model.training and model(torch.zeros(2, 3, 96, 96)).shape == (2, 5)
    with pytest.raises(
        ModelError, match=r"model torchvision:alexnet: cannot take images of 3 x 8 x 8: Runtime"
    ):
        build("torchvision:alexnet", (3, 8, 8), 10, 1)
    with pytest.raises(ModelError, match="take 3 channels, these images have 1"):
        build("torchvision:resnet18", (1, 8, 8), 10, 1)


USERS = """
import random
import numpy as np
import torch
from torch import nn

def mine(in_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(in_shape[1] ** 2), nn.LazyLinear(classes))

def narrow(in_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_shape[1] ** 2, classes - 1))

def wrong(in_shape, classes):
    return nn.Conv2d(3, classes, 1)

def nothing(in_shape, classes):
    return None

class Changing(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

    def forward(self, x):
        return (self.net(x), x.mean()) if self.training else self.net(x)

def tuple_in_training(in_shape, classes):
    return Changing(classes)

def tuple_at_once(in_shape, classes):
    class Both(nn.Flatten):
        def forward(self, x):
            return x, x
    return Both()

def frozen(in_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_shape[1] ** 2, classes)).requires_grad_(False)

def function(in_shape, classes):
    return lambda x: x.flatten(1)[:, :classes]

def not_in_training(in_shape, classes):
    class Strict(nn.Flatten):
        def forward(self, x):
            if self.training:
                raise RuntimeError("targets are missing")
            return super().forward(x)[:, :classes]
    return Strict()

def drawing(in_shape, classes):
    class Drawing(nn.Flatten):
        def __init__(self):
            super().__init__()
            self.rng = np.random.default_rng(0)
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count += 1
            random.random(), np.random.rand(), torch.rand(1), self.rng.random()
            return super().forward(x)[:, :classes]
    return Drawing()

number = 3
"""


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "users_models.py").write_text(USERS)
    (tmp_path / "users_broken.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "users_models"
    for name in ("users_models", "users_broken"):
        sys.modules.pop(name, None)


def test_a_model_of_ones_own(users_module: str) -> None:
    check_name("users_models:mine")
    first, again, other = (build("users_models:mine", (1, 8, 8), 10, seed) for seed in (1, 1, 2))
    assert torch.equal(first[2].weight, again[2].weight)
    assert not torch.equal(first[2].weight, other[2].weight)
    # It is tried out on one image, which leaves its BatchNorm as it was.
    assert first.training and first[1].num_batches_tracked == 0


def test_a_trial_run_of_a_model_leaves_no_trace(users_module: str) -> None:
    def state() -> tuple[object, ...]:
        return random.getstate(), np.random.get_state()[2:], torch.get_rng_state().tolist()

    before = state()
    model = build("users_models:drawing", (1, 8, 8), 10, 1)
    assert state() == before
    assert model.count == 0 and model.rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("users_models:mien", "module users_models has no model 'mien'; did you mean 'mine'?"),
        ("users_models:number", "module users_models has no model 'number'; "),
        ("users_model:mine", "no module 'users_model' in "),
        ("users_broken:mine", "module users_broken cannot be imported: No module named 'nothing_"),
        ("users models:mine", "'users models:mine' names no model; write torchvision:resnet50, "),
        (
            "users_models:narrow",
            "model users_models:narrow: gives shape (1, 9) for one image of 1 x 8 x 8; with 10 "
            "classes it must give a tensor of shape (1, 10)",
        ),
        (
            "users_models:wrong",
            "model users_models:wrong: cannot take images of 1 x 8 x 8: RuntimeError: Given ",
        ),
        (
            "users_models:tuple_in_training",
            "model users_models:tuple_in_training: gives a tuple for two images of 1 x 8 x 8 in "
            "training; with 10 classes it must give a tensor of shape (2, 10)",
        ),
        (
            "users_models:tuple_at_once",
            "model users_models:tuple_at_once: gives a tuple for one image of 1 x 8 x 8; with 10",
        ),
        (
            "users_models:not_in_training",
            "model users_models:not_in_training: cannot take images of 1 x 8 x 8: RuntimeError: "
            "targets are missing",
        ),
        (
            "users_models:frozen",
            "model users_models:frozen: has no parameter that requires a gradient, so there is "
            "nothing to train",
        ),
        (
            "users_models:function",
            "model users_models:function: returned a function, not a torch.nn.Module",
        ),
        (
            "users_models:nothing",
            "model users_models:nothing: returned a NoneType, not a torch.nn.Module",
        ),
    ],
)
def test_faults_in_a_model_of_ones_own(users_module: str, name: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(name, (1, 8, 8), 10, 1)
    assert str(caught.value).startswith(message)
