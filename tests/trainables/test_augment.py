"""Augmentation: exact against a plain loop over images, fair in its draws, the same for all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.augment import KINDS, Augment, Normaliser
from trainables.crops import Staging, cut_lines, cutout_, draw_boxes, padded_crops, resized_crop
from trainables.randaugment import OPERATIONS, randaugment
from trainables.split import Batch, Selection
from trainables.targets import Mixer

SHAPES = [(1, 8, 8), (3, 32, 32), (3, 24, 40)]
AS_IT_IS = Normaliser(torch.zeros(1), torch.ones(1))


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def pictures(draw: torch.Generator, count: int, shape: tuple[int, int, int]) -> Tensor:
    return torch.randint(256, (count, *shape), generator=draw, dtype=torch.uint8)


def whole(draw: torch.Generator, below: int, count: int) -> Tensor:
    return torch.randint(below, (count,), generator=draw)


# Each operation against what one would write for a single image.


@pytest.mark.parametrize("at_once", [16, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_crop_is_a_slice_of_the_padded_image(
    shape: tuple[int, int, int],
    at_once: int,
    draw: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, height, width = shape
    top, left = height // 8, width // 8
    monkeypatch.setattr("trainables.crops._VALUES_AT_A_TIME", at_once * math.prod(shape))
    staging = Staging(torch.Size((16, *shape)), torch.device("cpu"))
    store = pictures(draw, 9, shape)
    # What is before the first image and behind the last is not to be read.
    stores = {
        "whole": store,
        "between others": torch.cat([store, store, store])[9:18],
        "channels last": store.contiguous(memory_format=torch.channels_last),
        "one image": store[:1],
    }
    for name, images in stores.items():
        middle = 1 + whole(draw, 7, 16) if len(images) > 1 else torch.zeros(16, dtype=torch.long)
        ends = torch.tensor([0, len(images) - 1]).repeat(8)
        for rows in (middle, ends, ends[:5]):
            count = len(rows)
            dy, dx = whole(draw, 2 * top + 1, count), whole(draw, 2 * left + 1, count)
            dy[:4], dx[:4] = torch.tensor([0, 2 * top] * 2), torch.tensor([0, 0, 2 * left, left])
            flip = whole(draw, 2, count)
            batches: tuple[Batch, ...] = Selection(images, rows), images[rows]
            for batch in batches:
                parts = padded_crops(batch, dy, dx, flip, staging)
                found = torch.cat([part.clone() for part in parts])
                assert len(found) == count
                for i, row in enumerate(rows):
                    image = images[row].flip(-1) if flip[i] else images[row]
                    padded = F.pad(image, (left, left, top, top))
                    expected = padded[:, dy[i] : dy[i] + height, dx[i] : dx[i] + width]
                    assert torch.equal(found[i], expected), name


@pytest.mark.parametrize("shape", [*SHAPES, (1, 24, 5), (1, 5, 24)])
def test_cutout_blanks_a_square_that_may_reach_over_the_border(
    shape: tuple[int, int, int], draw: torch.Generator
) -> None:
    _, height, width = shape
    images = torch.rand(20, *shape, generator=draw) + 1
    y, x = whole(draw, height, 20), whole(draw, width, 20)
    y[:4], x[:4] = torch.tensor([0, 0, height - 1, height - 1]), torch.tensor([0, width - 1] * 2)
    staging = Staging(images.shape, images.device)
    found = cutout_(images.clone(), *cut_lines(y, x, staging), staging)
    half = height // 4
    for i in range(20):
        expected = images[i].clone()
        rows = slice(max(0, int(y[i]) - half), int(y[i]) - half + height // 2)
        columns = slice(max(0, int(x[i]) - half), max(0, int(x[i]) - half + height // 2))
        expected[:, rows, columns] = 0
        assert torch.equal(found[i], expected)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64), (3, 48, 72)])
def test_a_resized_crop_is_the_interpolated_slice(
    shape: tuple[int, int, int], draw: torch.Generator
) -> None:
    _, height, width = shape
    images = pictures(draw, 24, shape).float()
    boxes = draw_boxes(24, height, width, draw)
    flip = whole(draw, 2, 24)
    found = resized_crop(images, *boxes, flip)
    for i in range(24):
        top, left, tall, wide = (int(edge[i]) for edge in boxes)
        box = images[i : i + 1, :, top : top + tall, left : left + wide]
        expected = F.interpolate(box, (height, width), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(
            found[i], expected.flip(-1) if flip[i] else expected, atol=0.02, rtol=0
        )


def of_torchvision(name: str, image: Tensor, sign: int) -> Tensor:
    """RandAugment's operation at magnitude 9 of 30, by torchvision's own."""
    from torchvision.transforms.v2 import functional as f

    factor, height, width = 1 + sign * 0.27, *image.shape[1:]

    def affine(
        angle: float = 0, x: float = 0, y: float = 0, shear: tuple[float, float] = (0, 0)
    ) -> Any:
        degrees = [math.degrees(s) for s in shear]
        return f.affine(image, angle, [int(x), int(y)], 1.0, degrees)

    known: dict[str, Callable[[], Any]] = {
        "identity": lambda: image,
        "autocontrast": lambda: f.autocontrast(image),
        "brightness": lambda: f.adjust_brightness(image, factor),
        "contrast": lambda: f.adjust_contrast(image, factor),
        "color": lambda: f.adjust_saturation(image, factor),
        "sharpness": lambda: f.adjust_sharpness(image, factor),
        "posterize": lambda: f.posterize(image, 7),
        "solarize": lambda: f.solarize(image, 255 * 0.7),
        "rotate": lambda: affine(angle=9 * sign),
        "shear_x": lambda: affine(shear=(math.atan(0.09) * sign, 0)),
        "shear_y": lambda: affine(shear=(0, math.atan(0.09) * sign)),
        "translate_x": lambda: affine(x=150 / 331 * width * 0.3 * sign),
        "translate_y": lambda: affine(y=150 / 331 * height * 0.3 * sign),
    }
    return known[name]()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", OPERATIONS)
def test_randaugments_operations_are_torchvisions(
    name: str, sign: int, draw: torch.Generator
) -> None:
    # Smooth pictures: where a nearest pixel is a matter of rounding, its neighbour is close.
    rough = pictures(draw, 6, (3, 6, 6)).float()
    images = F.interpolate(rough, (36, 48), mode="bilinear").round()
    which = torch.full((6,), OPERATIONS.index(name))
    found = randaugment(images, which, torch.full((6,), sign))
    expected = [of_torchvision(name, image, sign) for image in images.to(torch.uint8)]
    assert (found - torch.stack(expected)).abs().max() <= 1
    assert torch.equal(found, found.round())
    assert torch.equal(found, images) == (name == "identity")


def test_each_image_has_an_operation_of_its_own(draw: torch.Generator) -> None:
    images = pictures(draw, 26, (3, 16, 16)).float()
    which = torch.arange(26) % len(OPERATIONS)
    sign = torch.tensor([1] * 13 + [-1] * 13)
    together = randaugment(images, which, sign)
    for i in range(26):
        alone = randaugment(images[i : i + 1], which[i : i + 1], sign[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=0, rtol=0)


def test_without_augmentation_a_batch_is_only_normalised(draw: torch.Generator) -> None:
    images = pictures(draw, 9, (3, 8, 8))
    mean, std = torch.tensor([100.0, 110, 120]), torch.tensor([50.0, 60, 70])
    augment = Augment("none", Normaliser(mean, std), seed=1)
    augment.start(1)
    expected = (images.float() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    for found in (augment(images), Normaliser(mean, std)(images)):
        torch.testing.assert_close(found, expected, atol=0, rtol=2**-22)


def test_the_blank_square_is_of_the_mean_colour(draw: torch.Generator) -> None:
    augment = Augment("cutout", Normaliser(torch.tensor([40.0]), torch.tensor([2.0])), seed=1)
    augment.start(1)
    found = augment(torch.full((50, 1, 32, 32), 240, dtype=torch.uint8))
    # 240 is 100 standard deviations above the mean, the padding 20 below.
    assert set(found.unique().tolist()) == {-20.0, 0.0, 100.0}


# The draws.


def chances(found: Tensor, outcomes: int) -> float:
    """Chi-squared per degree of freedom against even chances: about 1, far above 2 if uneven."""
    counts = torch.bincount(found.long(), minlength=outcomes).double()
    assert len(counts) == outcomes
    expected = len(found) / outcomes
    return float(((counts - expected) ** 2 / expected).sum() / (outcomes - 1))


def test_crops_and_flips_are_drawn_evenly() -> None:
    # Each pixel tells its row and column.
    row, column = torch.meshgrid(torch.arange(1, 33), torch.arange(1, 33), indexing="ij")
    images = torch.stack([row, column]).to(torch.uint8).expand(4000, 2, 32, 32)
    augment = Augment("standard", AS_IT_IS, seed=3)
    augment.start(1)
    found = augment(images)
    flip = (found[:, 1, 16, 17] < found[:, 1, 16, 16]).long()
    dy = found[:, 0, 16, 16] - 17 + 4
    dx = torch.where(flip == 1, 16 - found[:, 1, 16, 16], found[:, 1, 16, 16] - 17) + 4
    assert chances(dy, 9) < 2
    assert chances(dx, 9) < 2
    assert chances(flip, 2) < 6
    assert chances(9 * dy + dx, 81) < 1.5, "they do not depend on each other"


@pytest.mark.parametrize("kind", ["cutout", "randaugment"])
def test_blank_squares_are_drawn_evenly(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.augment.randaugment", lambda images, *_: images)
    augment = Augment(kind, Normaliser(torch.tensor([40.0]), torch.ones(1)), seed=3)
    augment.start(1)
    images = torch.full((200, 1, 32, 32), 240, dtype=torch.uint8)
    # 0 is in the square alone: the padding is -40, and the image 200.
    blank = torch.cat([augment(images)[:, 0] == 0 for _ in range(40)])
    # A pixel is hit by as many of the 32 x 32 centres as lie within 8 of it.
    reach = [min(32, i + 8 + 1) - max(0, i - 7) for i in range(32)]
    expected = torch.tensor([[a * b / 1024 for b in reach] for a in reach])
    assert (blank.float().mean(dim=0) - expected).abs().max() < 0.03


def test_two_of_all_operations_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Tensor, Tensor]] = []

    def recording(images: Tensor, which: Tensor, sign: Tensor) -> Tensor:
        drawn.append((which, sign))
        return images

    monkeypatch.setattr("trainables.augment.randaugment", recording)
    augment = Augment("randaugment", AS_IT_IS, seed=3)
    augment.start(1)
    augment(torch.zeros(6500, 1, 8, 8, dtype=torch.uint8))
    (first, sign), (second, other) = drawn
    for which in (first, second):
        assert chances(which, len(OPERATIONS)) < 2
    assert chances(len(OPERATIONS) * first + second, len(OPERATIONS) ** 2) < 1.5
    assert set(sign.tolist()) == set(other.tolist()) == {-1, 1}
    assert chances((sign + 1) + (other + 1) // 2, 4) < 3, "they do not depend on each other"


def test_every_other_resized_crop_is_mirrored() -> None:
    # Columns ascend, in any part of the image.
    images = torch.arange(32, dtype=torch.uint8).expand(1000, 1, 32, 32)
    augment = Augment("imagenet", AS_IT_IS, seed=3)
    augment.start(1)
    found = augment(images)
    assert chances((found[:, 0, 16, 0] > found[:, 0, 16, -1]).long(), 2) < 6


def test_boxes_are_drawn_as_random_resized_crop_draws_them() -> None:
    draw = torch.Generator().manual_seed(2)
    top, left, tall, wide = draw_boxes(20_000, 64, 64, draw)
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + tall <= 64).all() and (left + wide <= 64).all()
    area, ratio = tall * wide / 64**2, wide / tall
    assert area.min() > 0.07 and area.max() <= 1
    assert ratio.min() > 0.68 and ratio.max() < 1.48
    from torchvision.transforms import v2

    torch.manual_seed(2)
    theirs = [v2.RandomResizedCrop(64).make_params([torch.empty(3, 64, 64)]) for _ in range(4000)]
    for ours, name in ((top, "top"), (left, "left"), (tall, "height"), (wide, "width")):
        other = torch.tensor([float(params[name]) for params in theirs])
        for q in (0.1, 0.25, 0.5, 0.75, 0.9):
            assert abs(ours.quantile(q) - other.quantile(q)) <= 2, (name, q)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_draws_are_a_function_of_seed_and_epoch(kind: str, draw: torch.Generator) -> None:
    images = pictures(draw, 30, (3, 32, 32))

    def epoch(augment: Augment, number: int) -> list[Tensor]:
        augment.start(number)
        return [augment(batch).clone() for batch in images.split(13)]

    def equal(a: list[Tensor], b: list[Tensor]) -> bool:
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    augment = Augment(kind, AS_IT_IS, seed=5)
    first, second = epoch(augment, 1), epoch(augment, 2)
    assert not equal(first, second)
    torch.rand(3)
    assert equal(epoch(Augment(kind, AS_IT_IS, seed=5), 2), second), "as a resumed trial"
    assert not equal(epoch(Augment(kind, AS_IT_IS, seed=6), 2), second)
    assert first[0].shape == (13, 3, 32, 32) and first[0].dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_the_global_generators_are_left_alone(kind: str, draw: torch.Generator) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    augment = Augment(kind, AS_IT_IS, seed=5)
    augment.start(1)
    augment(pictures(draw, 8, (3, 16, 16)))
    Mixer(1.0, 1.0, 10, 5)(torch.rand(4, 1, 8, 8, generator=draw), torch.arange(4))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_batches_come_in_the_layout_that_was_asked_for(draw: torch.Generator) -> None:
    images = pictures(draw, 8, (3, 16, 16))
    plain = Augment("cutout", AS_IT_IS, seed=5)
    last = Augment("cutout", AS_IT_IS, seed=5, memory_format=torch.channels_last)
    for augment in (plain, last):
        augment.start(1)
    found = last(images)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, plain(images))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_in_parts_or_a_share_of_it_is_as_the_whole(
    kind: str, layout: torch.memory_format, draw: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = pictures(draw, 90, (3, 16, 24))
    rows = torch.randperm(90, generator=draw)[:40]
    whole = Augment(kind, AS_IT_IS, seed=5)
    whole.start(1)
    expected = whole(store[rows]).clone()
    monkeypatch.setattr("trainables.crops._VALUES_AT_A_TIME", 7 * store[0].numel())
    parts = Augment(kind, AS_IT_IS, seed=5, memory_format=layout)
    for share in (slice(0, 40), slice(10, 31)):
        parts.start(1)
        found = parts(Selection(store, rows[share]), share, 40)
        assert found.is_contiguous(memory_format=layout)
        assert torch.equal(found, expected[share])
