"""Mixtures of images and labels, and the losses and hits of mixed labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.targets import Mixer, cross_entropy, hits


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def drawn(draw: torch.Generator, below: int, count: int) -> Tensor:
    return torch.randint(below, (count,), generator=draw)


def test_mixup_mixes_images_and_labels_by_one_share(draw: torch.Generator) -> None:
    mixer = Mixer(mixup=0.4, cutmix=0.0, classes=10, seed=5)
    mixer.start(3)
    rng = np.random.default_rng((5, 3, 2))
    images, labels = torch.rand(7, 3, 8, 8, generator=draw), drawn(draw, 10, 7)
    found, targets = mixer(images.clone(), labels)
    other, share = rng.permutation(7), rng.beta(0.4, 0.4)
    for i in range(7):
        expected = (1 - share) * images[i] + share * images[other[i]]
        torch.testing.assert_close(found[i], expected)
        row = torch.zeros(10)
        row[labels[i]] += 1 - share
        row[labels[other[i]]] += share
        torch.testing.assert_close(targets[i], row)


def test_cutmix_pastes_a_box_and_its_share_of_the_label(draw: torch.Generator) -> None:
    mixer = Mixer(mixup=0.0, cutmix=1.0, classes=4, seed=5)
    mixer.start(1)
    rng = np.random.default_rng((5, 1, 2))
    labels = torch.arange(4)
    for _ in range(50):
        # Image i is all i: what is not, was pasted.
        images = labels.float().view(4, 1, 1, 1).expand(4, 2, 16, 24).clone()
        found, targets = mixer(images, labels)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
        for i in range(4):
            for j in range(4):
                share = float((found[i] == j).float().mean())
                assert targets[i, j] == pytest.approx(share, abs=1e-6)
        pasted = found[:, 0] != labels.view(4, 1, 1)
        rows, columns = pasted.any(dim=(0, 2)).sum(), pasted.any(dim=(0, 1)).sum()
        assert (pasted.sum(dim=(1, 2)) % max(1, int(rows * columns)) == 0).all(), "a rectangle"
        # Of that share of the area, but for what lies outside.
        moves, side = bool((rng.permutation(4) != np.arange(4)).any()), math.sqrt(rng.beta(1, 1))
        for length, found_length in ((16, rows), (24, columns)):
            at, half = int(rng.integers(length)), int(length * side) // 2
            inside = min(length, at + half) - max(0, at - half)
            assert not moves or not rows or int(found_length) == inside


def test_shares_are_drawn_from_beta_and_methods_evenly() -> None:
    mixer = Mixer(mixup=0.3, cutmix=0.3, classes=2, seed=9)
    mixer.start(1)
    labels, shares, pasted = torch.tensor([0, 1]), [], 0
    for _ in range(3000):
        images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 32, 32).clone()
        found, targets = mixer(images, labels)
        if targets[0, 0] not in (0, 1):
            boxed = bool(((found == 0) | (found == 1)).all())
            pasted += boxed
            shares += [] if boxed else [float(targets[0, 1])]
    # Half of the permutations leave both images alone; Beta(0.3, 0.3) has sd 0.395.
    assert 0.4 < pasted / (pasted + len(shares)) < 0.52, "some boxes are empty"
    assert np.mean(shares) == pytest.approx(0.5, abs=0.04)
    assert np.std(shares) == pytest.approx(math.sqrt(0.25 / 1.6), abs=0.02)


def test_nothing_is_mixed_without_an_alpha(draw: torch.Generator) -> None:
    images, labels = torch.rand(5, 1, 4, 4, generator=draw), drawn(draw, 10, 5)
    found, targets = Mixer(0.0, 0.0, 10, 1)(images, labels)
    assert found is images and targets is labels


def test_losses_stay_per_sample_with_mixtures_and_smoothing(draw: torch.Generator) -> None:
    outputs = torch.randn(6, 10, generator=draw)
    a, b = drawn(draw, 10, 6), drawn(draw, 10, 6)
    mixed = 0.7 * F.one_hot(a, 10) + 0.3 * F.one_hot(b, 10)
    loss_fn = cross_entropy(0.1)
    logs = outputs.log_softmax(dim=1)
    for i in range(6):
        alone = -(0.9 * mixed[i] + 0.01) @ logs[i]
        torch.testing.assert_close(loss_fn(outputs, mixed)[i], alone)
        hard = -(0.9 * logs[i, a[i]] + 0.01 * logs[i].sum())
        torch.testing.assert_close(loss_fn(outputs, a)[i], hard)
    index = torch.tensor([4, 1])
    assert torch.equal(loss_fn(outputs[index], mixed[index]), loss_fn(outputs, mixed)[index])
    half = loss_fn(outputs.bfloat16(), mixed)
    assert half.dtype == torch.float32


def test_hits_counts_the_share_of_the_predicted_class() -> None:
    outputs = torch.eye(3)
    assert hits(outputs, torch.tensor([0, 1, 0])) == 2
    mixed = torch.tensor([[0.6, 0.4, 0], [0.25, 0.75, 0], [0.5, 0.5, 0]])
    assert hits(outputs, mixed).item() == pytest.approx(1.35)
