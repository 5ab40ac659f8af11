"""No part of a batch is a single sample where BatchNorm has to normalise it."""

from __future__ import annotations

import problems
import pytest
import torch
from problems import batches, loss_fn, make, norm_net, plain_net, seeded
from torch import nn

from samtune.optimizers import VARIANTS, GradientOracle, sizes

FEW: dict[str, dict[str, object]] = {
    "esam": {"gamma": 1e-6},
    "k_sam": {"kept": 0.0},
    "bayesian_sam": {"m": 8},
}
"""Knobs at which a variant takes as few samples at once as it can."""


def seen(model: nn.Module) -> list[int]:
    """Fills with the sizes of the passes from now on."""
    found = []
    model.register_forward_pre_hook(lambda _, inputs: found.append(len(inputs[0])))
    return found


def step(variant, model, size, **options):
    [(x, y)] = batches(1, size=size)
    return variant.step(GradientOracle(model, x, y, loss_fn, **options))


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", [2, 3, 4, 7, 9, 16])
@pytest.mark.parametrize("micro_batch", [None, 1, 2, 5])
def test_every_pass_has_two_samples_with_batch_norm(name, size, micro_batch):
    chunks = [1, 2, 3, 5] if "m" in VARIANTS[name].knobs() else [0]
    for m in [0, *chunks] if name != "bayesian_sam" else chunks:
        knobs = FEW.get(name, {}) | ({"m": m} if m else {})
        model = seeded(norm_net)
        variant, passes = make(name, model, **knobs), seen(model)
        results = [step(variant, model, size, micro_batch=micro_batch) for _ in range(2)]
        assert min(passes) >= 2, (m, passes)
        assert results[0].outputs.shape == (size, 3)
        assert sum(passes) == sum(result.forward_samples for result in results)


@pytest.mark.parametrize(("m", "expected"), [(1, [1] * 3), (2, [2, 1]), (3, [3])])
def test_without_batch_norm_parts_are_as_asked(m, expected):
    for build in (plain_net, lambda: norm_net().eval()):
        model = seeded(build)
        variant, passes = make("sam", model, m=m), seen(model)
        step(variant, model, 3)
        assert passes[::2] == expected


@pytest.mark.parametrize("layer", [nn.SyncBatchNorm, nn.LazyBatchNorm1d, nn.BatchNorm3d])
def test_batch_norm_by_any_name(layer):
    norm = layer() if layer is nn.LazyBatchNorm1d else layer(3)
    assert sizes.least_samples([nn.ReLU(), norm], of_process=False) == 2
    alone = 1 if layer is nn.SyncBatchNorm else 2
    assert sizes.least_samples([norm], of_process=True) == alone
    assert sizes.least_samples([norm.eval(), nn.LayerNorm(3)], of_process=False) == 1


@pytest.mark.parametrize("least", [1, 2])
def test_parts_are_all_samples(least):
    for samples in range(1, 30):
        for size in range(1, 33):
            found = sizes.at_most(size, samples, least)
            assert sum(found) == samples and min(found) >= min(least, samples)
            assert max(found) <= max(size, least) + (least - 1)
            count = sizes.most_parts(size, samples, least)
            even = sizes.even(samples, count)
            assert sum(even) == samples and min(even) >= min(least, samples)
            assert len(even) <= size
    assert sizes.at_most(37, 1000, 2) == [37] * 26 + [38]
    assert sizes.at_most(5, 16, 1) == [5, 5, 5, 1]


@pytest.mark.parametrize(
    ("name", "knobs", "size"),
    [
        *((name, {}, 1) for name in VARIANTS),
        ("fisher_sam", {"fisher": "sample"}, 16),
        ("sparse_sam", {"mask": "fisher"}, 16),
    ],
)
def test_a_single_sample_is_refused_by_name(name, knobs, size):
    model = seeded(norm_net)
    before = problems.weights(model)
    with pytest.raises(
        ValueError, match=r"BatchNorm, which cannot normalise a single sample.*batch_size"
    ):
        step(make(name, model, **knobs), model, size)
    assert torch.equal(problems.weights(model), before)


def test_a_single_image_is_enough_where_it_has_many_pixels():
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)
        )
    )
    x, y = torch.randn(1, 1, 6, 6, dtype=torch.float64), torch.tensor([2])
    variant = make("sparse_sam", model, mask="fisher")
    assert variant.step(GradientOracle(model, x, y, loss_fn)).loss.isfinite()
