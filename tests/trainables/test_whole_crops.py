"""ImageNet's random parts come from whole images, not from their middle squares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from samtune.trial import Budget, Seeds, TrialConfig, running
from trainables import vision
from trainables.augment import Augment, Normaliser, warn_of_squares
from trainables.data import load
from trainables.datasets import paths
from trainables.datasets.decode import Crops
from trainables.split import Streamed

CPU = torch.device("cpu")
AS_IT_IS = Normaliser(torch.zeros(3), torch.ones(3))
SIDE, TALL, WIDE = 16, 40, 120
TASK = {"image_size": SIDE, "augment": "imagenet", "batch_size": 4}


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of wide images, red from 0 at the left to 238 at the right; its name."""
    monkeypatch.setenv("SAMTUNE_DATA_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(paths, "MAPPED", 100)
    row = (np.arange(WIDE) * 2).astype(np.uint8)
    pixels = np.stack([np.broadcast_to(row, (TALL, WIDE)), *np.zeros((2, TALL, WIDE))], 2)
    image = Image.fromarray(pixels.astype(np.uint8))
    for part, count in (("train", 20), ("test", 4)):
        for name in ("cat", "dog"):
            place = tmp_path / "images" / part / name
            place.mkdir(parents=True)
            for k in range(count):
                image.save(place / f"{k}.png")
    return f"folder:{tmp_path / 'images'}"


def batch(name: str, epoch: int, rows: slice = slice(None)) -> torch.Tensor:
    """Return the red of the first images of an epoch."""
    split = load({"dataset": name, **TASK}, 1).train
    augment = Augment("imagenet", AS_IT_IS, seed=7)
    augment.start(epoch)
    order = torch.arange(len(split))
    (images, _), *_ = augment.source(split).selections(order[rows], len(order), CPU)
    return augment(images, rows, len(order))[:, 0]


def test_a_random_part_comes_from_the_whole_image(wide: str) -> None:
    """GPU defect 11. Parts of the middle square would lose two thirds of the image."""
    assert isinstance(load({"dataset": wide, **TASK}, 1).train, Streamed)
    found = torch.cat([batch(wide, epoch) for epoch in range(1, 6)])
    # The middle square has columns 40 to 79, red 80 to 158.
    assert found.min() < 20 and found.max() > 218
    left, right = found[:, 8, 0], found[:, 8, -1]
    assert 0.3 < (left > right).float().mean() < 0.7, "half of them are mirrored"
    assert (found[:, :1] - found).abs().max() <= 1, "a part has whole columns"
    # Each epoch has parts of its own, and a resumed trial or another rank the same.
    assert torch.equal(batch(wide, 2), batch(wide, 2))
    assert not torch.equal(batch(wide, 2), batch(wide, 3))
    assert torch.equal(batch(wide, 2)[5:9], batch(wide, 2, slice(5, 9)))


def test_the_parts_are_those_of_random_resized_crop() -> None:
    from torchvision.transforms import v2

    torch.manual_seed(2)
    picture = [torch.empty(3, TALL, WIDE)]
    theirs = [v2.RandomResizedCrop(SIDE).make_params(picture) for _ in range(3000)]
    crops = Crops(seed=1, epoch=1)
    ours = np.array([crops.box(index, WIDE, TALL) for index in range(3000)])
    assert ours.min() >= 0 and (ours[:, 2] <= WIDE).all() and (ours[:, 3] <= TALL).all()
    mine = {"left": ours[:, 0], "top": ours[:, 1], "width": ours[:, 2] - ours[:, 0]}
    mine["height"] = ours[:, 3] - ours[:, 1]
    for name, values in mine.items():
        other = np.array([params[name] for params in theirs])
        for q in (0.1, 0.25, 0.5, 0.75, 0.9):
            assert abs(np.quantile(values, q) - np.quantile(other, q)) <= 3, (name, q)
    # None fits: the middle, at a ratio of 4 / 3.
    assert crops.box(0, 1000, 3) == (498, 0, 502, 3)


def test_a_trial_is_trained_on_such_parts_and_evaluated_on_the_middle(wide: str) -> None:
    seen: dict[bool, list[torch.Tensor]] = {True: [], False: []}

    def noted(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if isinstance(module, torch.nn.Sequential):
            seen[module.training].append(inputs[0][:, 0].clone())

    config = TrialConfig(
        trainable="trainables.vision:sgd",
        variant="sgd",
        base="sgd",
        knobs={},
        task={**TASK, "dataset": wide},
        budget=Budget("epochs", 2),
        seeds=Seeds(1, 2, 3),
    )
    hook = torch.nn.modules.module.register_module_forward_pre_hook(noted)
    try:
        with running(config, lambda report: None):
            vision.sgd(config)
    finally:
        hook.remove()
    trained, evaluated = torch.cat(seen[True]), torch.cat(seen[False])
    assert trained.std(dim=(1, 2)).std() > 0.05, "parts of all sizes"
    assert (evaluated - evaluated[:1]).abs().max() == 0, "all images are alike"


def test_mapped_squares_are_told_of(wide: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "MAPPED", 2**30)
    split = load({"dataset": wide, **TASK, "val_size": 3}, 1).train
    assert not isinstance(split, Streamed)
    with pytest.warns(UserWarning, match="the middle squares that the memory map has"):
        warn_of_squares({"dataset": wide, **TASK}, split)
