"""Odd parameters: frozen, unused, complex, without dimensions, and with sparse gradients."""

from __future__ import annotations

import copy

import problems
import pytest
import torch
from problems import batches, loss_fn, make, perturbations, plain_net, seeded, train
from torch import Tensor, nn

from samtune.optimizers import VARIANTS, GradientOracle, tensors
from samtune.optimizers.two_pass import Sharpened

every_variant = pytest.mark.parametrize("name", VARIANTS)

FORMS = [(n, {}) for n in VARIANTS] + [
    (n, {"m": 8}) for n, v in VARIANTS.items() if issubclass(v, Sharpened)
]
FORMS += [
    ("fisher_sam", {"eta": 100.0, "fisher": "sample"}),
    ("sparse_sam", {"mask": "fisher"}),
    ("sparse_sam", {"update_freq": 1}),
    ("esam", {"swp_mode": "tensor"}),
    ("look_layer_sam", {"layer_rule": "global"}),
    ("look_sam", {"alpha": "auto"}),
    ("asam", {"normalize_bias": "all"}),
    ("wsam", {"decouple": False}),
]
every_form = pytest.mark.parametrize(("name", "knobs"), FORMS)


class TwoHeads(nn.Module):
    """One body, and two heads of which the batch uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(2))
        self.head = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.heads[self.head](torch.tanh(self.body(x)))


@every_form
def test_a_frozen_weight_is_neither_moved_nor_perturbed(name, knobs):
    model = seeded(plain_net)
    optimizer = make(name, model, **knobs)
    train(optimizer, model, batches(3))
    model[0].weight.requires_grad_(False)
    frozen = model[0].weight.detach().clone()
    seen = perturbations(optimizer)
    descents = problems.descents(optimizer) if VARIANTS[name].bases else []
    train(optimizer, model, batches(4))
    assert torch.equal(model[0].weight, frozen)
    assert all(eps[0] is None for eps in seen)
    assert all(d[0] is None and d[1] is not None for d in descents)
    model[0].weight.requires_grad_(True)
    train(optimizer, model, batches(4))
    assert not torch.equal(model[0].weight, frozen)


@every_form
def test_a_head_is_not_moved_by_batches_of_the_other(name, knobs):
    model = seeded(TwoHeads)
    optimizer = make(name, model, **knobs)
    seen = perturbations(optimizer)
    for turn, batch in enumerate(batches(9)):
        model.head = turn % 3 % 2
        unused = model.heads[1 - model.head].weight
        before = unused.detach().clone()
        train(optimizer, model, [batch])
        assert torch.equal(unused, before), turn
        place = 2 + 2 * (1 - model.head)
        if name not in {"momentum_sam", "bayesian_sam"}:
            # These perturb before a pass has shown which head the batch uses. It has no effect.
            assert all(eps[place] is None for eps in seen), turn
        seen.clear()


class Complex(nn.Module):
    """A network with complex weights, or the same with pairs of real ones."""

    def __init__(self, pairs: bool) -> None:
        super().__init__()
        self.pairs = pairs
        torch.manual_seed(0)
        shapes = {"a_weight": (6, 5, 2), "b_weight": (5, 3, 2), "c": (2,)}
        for name, shape in shapes.items():
            t = torch.randn(shape, dtype=torch.float64)
            setattr(self, name, nn.Parameter(t if pairs else torch.view_as_complex(t)))
        self.real = nn.Parameter(torch.randn(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = (
            torch.view_as_complex(t) if self.pairs else t
            for t in (self.a_weight, self.b_weight, self.c)
        )
        return (c * (torch.tanh((x.to(a.dtype) @ a) / 3) @ b)).abs() + self.real


@every_form
def test_complex_weights_are_pairs_of_real_ones(name, knobs):
    ends = []
    for pairs in (False, True):
        model = Complex(pairs)
        train(make(name, model, **knobs), model, batches(6), check_finite=True)
        ends.append(
            torch.cat(
                [
                    (torch.view_as_real(p) if p.is_complex() else p).detach().flatten()
                    for p in model.parameters()
                ]
            )
        )
    torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-12)


class Temperature(nn.Module):
    """A network whose outputs are scaled by one learned number, of shape () or (1,)."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3, dtype=dtype)
        self.temperature = nn.Parameter(torch.full(shape, 1.3, dtype=dtype))
        self.dtypes: set[torch.dtype] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.dtypes |= {p.dtype for p in self.parameters()}
        return self.layer(x) * self.temperature


@every_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_parameter_without_dimensions_is_one_of_shape_1(name, knobs, dtype, device, monkeypatch):
    if device == "gpu":
        # By the kernels of a GPU, which the CPU has too.
        monkeypatch.setattr(tensors, "_FUSED_ON_CPU", ())
    ends = []
    for shape in ((), (1,)):
        model = Temperature(shape, dtype)
        data = [(x.to(dtype), y) for x, y in batches(6)]
        train(make(name, model, **knobs), model, data)
        assert model.dtypes == {dtype} and model.temperature.shape == shape
        ends.append(problems.parameters(model))
    rtol = {torch.bfloat16: 0.02, torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(*ends, rtol=rtol, atol=max(1e-9, rtol / 10))


class Words(nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4, sparse=sparse)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.embedding(x).mean(1))


@every_form
def test_sparse_gradients_are_dense_ones(name, knobs):
    ends = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = Words(sparse).double()
        optimizer = make(name, model, **knobs)
        for seed in range(4):
            g = torch.Generator().manual_seed(seed)
            x, y = (
                torch.randint(high, size, generator=g)
                for high, size in ((10, (16, 5)), (3, (16,)))
            )
            optimizer.step(GradientOracle(model, x, y, loss_fn))
        ends.append(problems.parameters(model))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


@every_form
def test_with_every_parameter_frozen_there_is_one_sentence(name, knobs):
    model = seeded(plain_net).requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"every parameter of \w+ is frozen"):
        train(make(name, model, **knobs), model, batches(1))
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@every_variant
def test_parameters_of_another_model_are_one_sentence(name):
    model, other = seeded(plain_net), seeded(plain_net)
    with pytest.raises(ValueError, match="the loss depends on no parameter of"):
        train(make(name, other), model, batches(1))
