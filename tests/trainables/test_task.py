"""No word of a task is dead: each changes what is trained, and is told of when misspelt."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from samtune.optimizers import GradientOracle
from samtune.optimizers.knobs import KnobError
from samtune.space.search_space import SearchSpace, SpaceError
from samtune.trial import Budget, Seeds, TrialConfig, running
from trainables import vision
from trainables.models.small_cnn import small_cnn
from trainables.task import TASK
from trainables.vision import Vision

pytestmark = pytest.mark.usefixtures("one_thread")

OTHERWISE = {
    "label_noise": 0.0,
    "label_noise_kind": "asymmetric",
    "train_size": 0.5,
    "val_size": 0.3,
    "classes": "0,1,2",
    "batch_size": 32,
    "warmup": 0.1,
    "schedule": "linear",
    "min_lr": 0.02,
    "augment": "cutout",
    "mixup": 0.2,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "precision": "bf16",
    "freeze": "0, 3",
}
"""Each changes the training of digits with noisy labels."""
OF_FOLDERS = {"dataset", "image_size"}
OF_THE_MODEL = {"model", "dropout", "weights"}
"""The last two in tests/trainables/test_pretrained.py."""
# How, and not what, is computed: the same but for rounding, so the record has to tell.
FACTS = {"memory_format": ("channels_last", "channels_last"), "compile": (True, "compiled")}
OF_THE_DEVICE = {"combo_kernels", "deterministic", "graph"}
"""tests/trainables/test_compilation.py, test_precision.py and test_graphs.py have them."""
OF_TEST_IMAGES = {"corruption", "severity"}
"""Of cifar10 and cifar100 alone; tests/trainables/test_datasets.py has them."""
OF_GROUPS = {"batch_norm", "sync_perturbation"}
"""Of trials of several processes alone; tests/trainables/test_parallel.py has them."""
OF_SCHEDULES = {"every", "lr_gamma", "lr_step", "lr_milestones", "lr_power"}
"""Of some schedules alone; tests/trainables/test_schedule.py has them."""
OF_BAYESIAN_SAM = {"posterior_samples"}
"""Of one variant alone; tests/trainables/test_variants_train.py has it."""
OF_AVERAGES = {"average", "average_decay", "average_start"}
"""They change no training; tests/trainables/test_averaging.py has them."""
OF_FREEZE = {"unfreeze_at"}
"""tests/trainables/test_freezing.py has it."""
OF_CHECKPOINTS = {"checkpoint_every"}
"""tests/trainables/test_saver.py has it."""


SHORT = Budget("epochs", 0.3)


class CutError(Exception):
    """The worker dies here."""


def train(
    trainable: Vision = vision.sam,
    *,
    knobs: dict[str, Any] | None = None,
    budget: Budget = SHORT,
    checkpoint_dir: str | None = None,
    cut_at: int | None = None,
    **task: Any,
) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []

    def send(report: dict[str, Any]) -> None:
        reports.append(report)
        if report["epoch"] == cut_at:
            raise CutError

    config = TrialConfig(
        trainable=f"trainables.vision:{trainable.variant}",
        variant=trainable.variant,
        base=(trainable.bases or ("none",))[0],
        knobs=knobs or {},
        task={"dataset": "digits", "label_noise": 0.4, **task},
        budget=budget,
        seeds=Seeds(1, 2, 3),
        checkpoint_dir=checkpoint_dir,
    )
    with running(config, send):
        trainable(config)
    return reports


def trajectory(**task: Any) -> list[float]:
    return [report["metrics"]["train_loss"] for report in train(**task)]


def test_every_word_is_examined_here() -> None:
    elsewhere = OF_FOLDERS | OF_TEST_IMAGES | OF_GROUPS | OF_BAYESIAN_SAM | OF_AVERAGES
    elsewhere |= OF_CHECKPOINTS | OF_SCHEDULES | OF_THE_DEVICE | OF_FREEZE
    assert set(TASK) == {*OTHERWISE, *OF_THE_MODEL, *FACTS} | elsewhere


@pytest.mark.parametrize("word", OTHERWISE)
def test_a_word_changes_the_training(word: str) -> None:
    usual = trajectory()
    assert trajectory() == usual
    assert trajectory(**{word: TASK[word].default if word != "label_noise" else 0.4}) == usual
    assert trajectory(**{word: OTHERWISE[word]}) != usual


@pytest.mark.parametrize("kind", ["standard", "cutout", "randaugment", "imagenet"])
def test_each_augmentation_is_another(kind: str) -> None:
    others = {"none", "standard", "cutout", "randaugment", "imagenet"} - {kind}
    assert trajectory(augment=kind) not in [trajectory(augment=other) for other in others]


@pytest.mark.parametrize("word", FACTS)
def test_a_word_of_how_to_compute_is_told_to_the_record(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.precision.compile_forward", lambda model, program, **_: None)
    value, fact = FACTS[word]
    assert not train()[0]["facts"][fact]
    assert train(**{word: value})[0]["facts"][fact]


@pytest.mark.parametrize(("name", "kind"), [("sgd", "epochs"), ("sam", "compute")])
def test_warmup_is_a_line_to_the_cosine_and_a_radius_tied_to_lr_goes_with_it(
    name: str, kind: Any
) -> None:
    """Batches of 1,000 images are epochs: 4 of 8 warm up, whatever an epoch costs."""
    radius = {"rho": 0.4, "rho_min": 0.1, "rho_schedule": "lr"} if name == "sam" else {}
    cost = 2 if (name, kind) == ("sam", "compute") else 1
    reports = train(
        getattr(vision, name),
        knobs={"lr": 0.2, **radius},
        budget=Budget(kind, 8 * cost),
        batch_size=1000,
        warmup=4,
    )
    cosines = [(1 + math.cos(math.pi * epoch / 8)) / 2 for epoch in range(8)]
    lines = [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1]
    shares = [line * cosine for line, cosine in zip(lines, cosines, strict=True)]
    metrics = [report["metrics"] for report in reports]
    assert [m["lr"] for m in metrics] == pytest.approx([0.2 * share for share in shares])
    if radius:
        assert [m["rho"] for m in metrics] == pytest.approx([0.1 + 0.3 * s for s in shares])


def test_a_trial_cut_in_its_warmup_goes_on_bitwise(tmp_path: Path) -> None:
    words = {"budget": Budget("epochs", 3), "warmup": 1.7, "batch_size": 250}
    whole = train(checkpoint_dir=str(tmp_path / "whole"), **words)
    with pytest.raises(CutError):
        train(checkpoint_dir=str(tmp_path / "cut"), cut_at=1, **words)
    rest = train(checkpoint_dir=str(tmp_path / "cut"), **words)
    for report, other in zip(rest, whole, strict=True):
        for key in ("train_loss", "val_loss", "lr"):
            assert report["metrics"][key] == other["metrics"][key]


@pytest.mark.parametrize(
    ("space", "given", "message"),
    [
        ("sam", ["task.warmup=10"], "task.warmup is 10 epochs and a trial has 10 in all"),
        ("sgd", ["task.warmup=10"], None),
        ("sam", ["task.warmup=10", "budget.kind=epochs"], None),
        ("sam", ["task.warmup=10", "budget.kind=seconds", "resources.parallel=1"], None),
        ("imagenet_vit_small", ["budget.per_trial=60"], "vit_small.yaml:9:11: task.warmup is 32"),
    ],
)
def test_a_warmup_as_long_as_a_trial_is_refused(
    space: str, given: list[str], message: str | None
) -> None:
    if message is None:
        assert SearchSpace.load(space, given).task["warmup"] == 10
    else:
        with pytest.raises(SpaceError, match=message):
            SearchSpace.load(space, given)


def one_linear(in_shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
    size = in_shape[0] * in_shape[1] * in_shape[2]
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, classes))


def test_a_model_of_ones_own_is_trained() -> None:
    facts = train(model=f"{__name__}:one_linear")[0]["facts"]
    assert facts["n_params"] == 65 * 10


def test_a_folder_of_images_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMTUNE_DATA_ROOT", str(tmp_path / "root"))
    rng = np.random.default_rng(1)
    for name in ("ants", "bees"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(60):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    task = {"dataset": f"folder:{tmp_path / 'pictures'}", "batch_size": 16}
    usual = train(**task)
    n_params = sum(p.numel() for p in small_cnn((3, 16, 16), 2).parameters())
    assert usual[0]["facts"]["n_params"] == n_params
    other = train(**task, image_size=8)
    assert other[0]["metrics"]["train_loss"] != usual[0]["metrics"]["train_loss"]


@pytest.mark.parametrize(
    ("word", "value", "message"),
    [
        ("model", "resnet81", "unknown model 'resnet81'; did you mean 'resnet18'"),
        ("model", 18, "unknown model '18'"),
        ("dataset", "digit", "did you mean digits"),
        ("augment", "cutot", "did you mean cutout"),
        ("precision", "bf15", "did you mean bf16"),
        ("mixup", -1, "mixup is -1; it must be at least 0"),
        ("compile", "yes", "it must be true or false"),
    ],
)
def test_a_misspelt_word_is_told_with_the_nearest(word: str, value: Any, message: str) -> None:
    with pytest.raises(KnobError, match=message):
        TASK[word].check(value)


@pytest.mark.slow
def test_all_variants_see_equal_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """At equal seeds, with everything that is drawn: order, crops, holes and mixtures."""
    taken: list[tuple[torch.Tensor, torch.Tensor]] = []

    def spy(model: Any, inputs: Any, targets: Any, *rest: Any, **how: Any) -> GradientOracle:
        taken.append((inputs.clone(), targets))
        return GradientOracle(model, inputs, targets, *rest, **how)

    monkeypatch.setattr("trainables.steps.GradientOracle", spy)
    seen = {}
    for trainable in [value for value in vars(vision).values() if isinstance(value, Vision)]:
        taken.clear()
        train(trainable, augment="randaugment", mixup=0.2, cutmix=1.0)
        seen[trainable.variant] = list(taken)
    assert len(seen) >= 22
    first = seen["sgd"]
    assert len(first) == 5 and first[0][1].shape == (64, 10)
    for batches in seen.values():
        for ours, theirs in zip(batches, first, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))
