"""A step launches few kernels, and not more for a larger network."""

from __future__ import annotations

import problems
import pytest
import torch
from problems import batches, loss_fn, make, seeded, train
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from samtune.optimizers import VARIANTS, GradientOracle, tensors

every_variant = pytest.mark.parametrize("name", VARIANTS)
perturbing_at_once = pytest.mark.parametrize("name", problems.PERTURBING_AT_ONCE)


class Prescribed(GradientOracle):
    """An oracle with given gradients, so that only the variant's own launches are counted."""

    def grad(self, parameters, index=None):
        self.losses(index)
        return [torch.ones_like(p) for p in parameters]

    def losses(self, index=None):
        self.forward_samples += len(self)
        self.loss = self.outputs = self.inputs
        self.sample_losses = self.inputs[:, 0]
        return self.sample_losses


class Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.ops = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops.append(str(func))
        return func(*args, **(kwargs or {}))


def launches(name: str, layers: int) -> list[str]:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)))
    optimizer = make(name, model)
    x = torch.zeros(2, 2)

    def step():
        optimizer.step(Prescribed(model, x, x, loss_fn))

    steps = []
    for _ in range(4):
        with Counter() as counter:
            step()
        steps.append([op for op in counter.ops if not op.startswith(FREE)])
    # The first step makes the base's state. The step with the most launches in a cycle counts.
    return max(steps[1:], key=len)


FREE = (
    "aten.detach",
    "aten.ones_like",
    "aten.zeros.default",
    "aten.empty",
    "aten.expand",
    "aten.as_strided",
    "aten.promote",
    "aten.slice",
    "aten.select",
    "aten.split",
    "aten.unbind",
    "aten.view",
    "aten._unsafe_view",
    "aten._reshape_alias",
    "profiler",
)
"""Operators that launch nothing, or that belong to the prescribed gradient."""

MOST = {"sgd": 1, "adamw": 2, "sam": 9, "asam": 13, "lookbehind_sam": 21, "gam": 43}
# Per refresh, which is one step of k; and of eight, or here two, chunks.
MOST |= {"look_layer_sam": 23, "bayesian_sam": 27}


@every_variant
def test_launches_do_not_grow_with_the_net(name, monkeypatch):
    # As on a GPU. On the CPU the ascent uses a better kernel, which works tensor by tensor.
    monkeypatch.setattr(tensors, "_FUSED_ON_CPU", ())
    few, many = launches(name, 3), launches(name, 40)
    assert few == many
    assert len(many) <= MOST.get(name, 20), many


@perturbing_at_once
def test_buffers_cost_a_few_launches(name):
    counts = []
    for layers in (2, 12):
        model = seeded(lambda n=layers: nn.Sequential(*(nn.BatchNorm1d(6) for _ in range(n))))
        optimizer = make(name, model)
        with Counter() as counter:
            train(optimizer, model, batches(1))
        counts.append(sum("foreach_copy" in op for op in counter.ops))
    # Two dtypes (statistics, counters), kept twice and put back after each later pass.
    later = problems.passes_of_the_first_step(name)[0] - 1
    assert counts == [4 + 2 * later] * 2
