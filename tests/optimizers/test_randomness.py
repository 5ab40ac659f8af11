"""Random numbers from any source are drawn again in the later passes of a step."""

from __future__ import annotations

import copy
import random

import numpy as np
import problems
import pytest
import torch
from problems import batches, loss_fn, make, plain_net, seeded, train
from torch import nn

from samtune.optimizers import VARIANTS, GradientOracle

every_variant = pytest.mark.parametrize("name", VARIANTS)


class Noisy(nn.Module):
    """Scales its outputs by a random number, and keeps what it drew."""

    def __init__(self, source):
        super().__init__()
        self.body = nn.Linear(6, 3)
        self.torch_generator = torch.Generator().manual_seed(1)
        self.numpy_generator = np.random.default_rng(1)
        self.old_numpy_generator = np.random.RandomState(1)
        self.python_generator = random.Random(1)
        self.draw = source
        self.drawn = []

    def forward(self, x):
        self.drawn.append(float(self.draw(self)))
        return self.body(x) * (1 + self.drawn[-1])


SOURCES = {
    "python": lambda model: random.random(),
    "numpy": lambda model: np.random.rand(),
    "numpy normal": lambda model: np.random.randn(),
    "python gauss": lambda model: random.gauss(0, 1),
    "torch": lambda model: torch.rand(()),
    "own torch": lambda model: torch.rand((), generator=model.torch_generator),
    "own numpy": lambda model: model.numpy_generator.random(),
    "own old numpy": lambda model: model.old_numpy_generator.rand(),
    "own python": lambda model: model.python_generator.random(),
}
every_source = pytest.mark.parametrize("source", SOURCES)


def reset():
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)


@every_variant
@every_source
def test_every_pass_draws_the_same(name, source):
    model = seeded(lambda: Noisy(SOURCES[source]))
    variant = make(name, model)
    reset()
    firsts = []
    for x, y in batches(3):
        model.drawn.clear()
        variant.step(GradientOracle(model, x, y, loss_fn))
        assert len(set(model.drawn)) == 1
        firsts.append(model.drawn[0])
    # And the next step goes on as after one pass.
    fresh = Noisy(SOURCES[source])
    reset()
    assert firsts == [float(fresh.draw(fresh)) for _ in range(3)]


@every_source
def test_new_numbers_if_wanted(source):
    model = seeded(lambda: Noisy(SOURCES[source]))
    train(make("sam", model), model, batches(1), replay_rng=False)
    assert len(set(model.drawn)) == 2


@every_source
def test_micro_batches_draw_in_turn(source):
    model = seeded(lambda: Noisy(SOURCES[source]))
    train(make("sam", model), model, batches(1), micro_batch=5)
    assert len(set(model.drawn)) == 4 and model.drawn[:4] == model.drawn[4:]


def test_another_bit_generator_under_numpys_global_functions():
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        model = seeded(lambda: Noisy(SOURCES["numpy normal"]))
        train(make("sam", model), model, batches(2))
    finally:
        np.random.set_bit_generator(before)
    assert model.drawn[::2] == model.drawn[1::2] and len(set(model.drawn)) == 2


def test_a_loss_module_draws_the_same():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.rng = np.random.default_rng(0)
            self.drawn = []

        def forward(self, outputs, targets):
            self.drawn.append((self.rng.random(), random.random()))
            return loss_fn(outputs, targets) * self.drawn[-1][0]

    model, loss = seeded(problems.plain_net), Loss()
    variant = make("sam", model)
    for x, y in batches(2):
        variant.step(GradientOracle(model, x, y, loss))
    assert loss.drawn[::2] == loss.drawn[1::2] and len(set(loss.drawn)) == 2


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_variant
def test_the_devices_generators_draw_the_same(name):
    class OnDevice(Noisy):
        def __init__(self):
            super().__init__(lambda m: torch.rand((), device="cuda"))
            self.on_device = torch.Generator("cuda").manual_seed(1)

        def forward(self, x):
            own = torch.rand((), device="cuda", generator=self.on_device)
            return super().forward(x) * (1 + own)

    model = seeded(OnDevice).cuda()
    ends = []
    for x, y in batches(2):
        variant = make(name, model)
        model.drawn.clear()
        variant.step(GradientOracle(model, x.cuda(), y.cuda(), loss_fn))
        assert len(set(model.drawn)) == 1
        ends.append(model.drawn[0])
    assert ends[0] != ends[1]


def test_a_variant_has_one_generator_and_seeds_it_for_each_draw():
    """GPU defect 9. No CUDA graph can hold a new generator in each step."""
    cpu, model = torch.device("cpu"), seeded(plain_net)
    variant = make("esam", model, seed=3)
    first = variant.generator(cpu)
    drawn = torch.rand(4, generator=first), torch.randn(3, generator=first)
    assert variant.generator(cpu) is first and variant.generator(cpu, "mask", 1) is first
    copied = copy.deepcopy(variant)
    assert copied.generator(cpu) is not first
    # A generator of its own draws the same, whatever this one drew before.
    again = make("esam", model, seed=3).generator(cpu)
    assert torch.equal(torch.rand(4, generator=again), drawn[0])
    assert torch.equal(torch.randn(3, generator=again), drawn[1])
    variant.memory["draws"] = 0
    assert torch.equal(torch.rand(4, generator=variant.generator(cpu)), drawn[0])
