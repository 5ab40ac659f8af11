"""Sharpness measures against the dense Hessian of a small net."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.sharpness import Surface, fixed_subset, lambda_max, trace, worst_case


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def net(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), *layers, nn.Tanh(), nn.Linear(6, 3)).double()


def surface(model: nn.Module, **words: Any) -> Surface:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (30,), generator=generator)
    return Surface(model, cross_entropy, x, y, **words)


def dense(on: Surface) -> Tensor:
    size = sum(w.numel() for w in on.weights.values())
    return torch.stack([on.hessian_times(v) for v in torch.eye(size, dtype=torch.float64)])


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return net()


def test_a_hessian_product_equals_torchs_dense_hessian(model: nn.Sequential) -> None:
    on = surface(model, batch=7)
    names = list(on.weights)

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([w.numel() for w in on.weights.values()])
        weights = {n: p.view_as(on.weights[n]) for n, p in zip(names, parts, strict=True)}
        return on.mean_loss(weights, on.inputs, on.targets)

    flat = torch.cat([w.reshape(-1) for w in on.weights.values()])
    expected = torch.autograd.functional.hessian(loss, flat)
    torch.testing.assert_close(dense(on), expected, rtol=1e-9, atol=1e-12)


def test_the_eigenvalue_is_the_largest_not_the_largest_in_magnitude(model: nn.Sequential) -> None:
    on = surface(model)
    assert lambda_max(on, tolerance=1e-8) == pytest.approx(
        torch.linalg.eigvalsh(dense(on))[-1].item(), rel=1e-6
    )
    # Negated, the Hessian's dominant eigenvalue is negative.
    negative = Surface(model, lambda o, t: -cross_entropy(o, t), on.inputs, on.targets)
    values = torch.linalg.eigvalsh(dense(negative))
    assert abs(values[0]) > values[-1] > 0
    assert lambda_max(negative, tolerance=1e-8) == pytest.approx(values[-1].item(), rel=1e-5)


def test_the_trace_lies_within_its_error(model: nn.Sequential) -> None:
    on = surface(model)
    mean, error = trace(on, probes=200)
    assert abs(mean - dense(on).trace().item()) < 4 * error
    assert trace(on, probes=3) == trace(on, probes=3)


def test_worst_case_sharpness_of_a_quadratic_is_known() -> None:
    linear = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.0, 0.0]]))
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)

    def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.squeeze(1) ** 2 + 0.1 * outputs.squeeze(1)

    on = Surface(linear, half_square, x, torch.zeros(2))
    # L(d) = mean((2 a)^2 + .2 a, b^2 + .1 b); at rho = 0.5 its maximum lies close to d = (.5, 0).
    found = worst_case(on, 0.5, m=2, steps=60)
    grid = [
        0.5 * ((2 * a) ** 2 + 0.2 * a + b**2 + 0.1 * b)
        for t in range(3600)
        for a, b in [(0.5 * math.cos(t * math.pi / 1800), 0.5 * math.sin(t * math.pi / 1800))]
    ]
    assert found == pytest.approx(max(grid), rel=1e-3)


def test_worst_case_grows_with_rho_and_with_smaller_chunks(model: nn.Sequential) -> None:
    on = surface(model)
    small, large = worst_case(on, 0.05, m=30), worst_case(on, 0.2, m=30)
    assert 0 < small < large
    assert worst_case(on, 0.2, m=1) > large


def test_adaptive_sharpness_ignores_a_rescaling_of_the_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    on = surface(model)
    adaptive = worst_case(on, 0.3, m=30, adaptive=True)
    plain = worst_case(on, 0.3, m=30)
    with torch.no_grad():
        model[0].weight.mul_(8), model[0].bias.mul_(8), model[2].weight.div_(8)
    assert worst_case(on, 0.3, m=30, adaptive=True) == pytest.approx(adaptive, rel=1e-9)
    assert worst_case(on, 0.3, m=30) != pytest.approx(plain, rel=0.1)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_measure_leaves_the_model_as_it_is(mode: Any) -> None:
    torch.manual_seed(0)
    model = net(nn.BatchNorm1d(6), nn.Dropout(0.5))
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    on = surface(model, batch_norm=mode)
    assert worst_case(on, 0.1, m=10, steps=3) == worst_case(on, 0.1, m=10, steps=3)
    lambda_max(on)
    assert (model.training, model[1].training, model[2].training) == (True, False, True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in model.parameters())


def test_the_batch_norm_modes_differ() -> None:
    torch.manual_seed(0)
    model = net(nn.BatchNorm1d(6))
    found = {mode: lambda_max(surface(model, batch_norm=mode)) for mode in ("eval", "train")}
    assert found["eval"] != pytest.approx(found["train"], rel=0.05)


def test_frozen_weights_take_no_part(model: nn.Sequential) -> None:
    whole = lambda_max(surface(model), tolerance=1e-8)
    model[0].requires_grad_(False)
    on = surface(model)
    assert list(on.weights) == ["2.weight", "2.bias"]
    assert lambda_max(on, tolerance=1e-8) <= whole


def test_the_subset_depends_on_name_and_size_alone() -> None:
    assert fixed_subset(1000, 5, "digits") == fixed_subset(1000, 5, "digits")
    assert fixed_subset(1000, 5, "digits") != fixed_subset(1000, 5, "cifar10")
    assert fixed_subset(3, 10) == [0, 1, 2]
    # Growing the subset keeps what was in it.
    assert set(fixed_subset(1000, 5)) < set(fixed_subset(1000, 50))


def test_a_rest_of_one_sample_joins_the_batch_before_it_where_batch_norm_trains() -> None:
    torch.manual_seed(0)
    on = surface(net(nn.BatchNorm1d(6)), batch=29, batch_norm="train")
    assert [len(y) for _, y in on.batches()] == [30]
    assert math.isfinite(worst_case(on, rho=0.1, m=29, steps=2))
    assert [len(y) for _, y in surface(net(), batch=29).batches()] == [29, 1]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_products_with_the_hessian_are_those_of_curvlinops(model: nn.Sequential) -> None:
    """The batches have unequal sizes, so their means have unequal weights."""
    from curvlinops import HessianLinearOperator

    on = surface(model, batch=7)
    # The operator's loss is a mean over a batch, and it weighs each batch by its samples.
    data = [(x, y) for x, y in on.batches()]
    theirs = HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), data)
    generator = torch.Generator().manual_seed(2)
    size = sum(p.numel() for p in model.parameters())
    for _ in range(3):
        v = torch.randn(size, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(on.hessian_times(v), theirs @ v, rtol=1e-8, atol=1e-11)
