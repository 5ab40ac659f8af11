"""ShakeDrop and stochastic depth: their equations, and the draws of a second pass."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from small_models import CIFAR, smallest
from torch import Tensor
from torch._inductor import config as inductor

from samtune.optimizers import SAM, GradientOracle
from samtune.optimizers.oracle import Index
from samtune.optimizers.tensors import Gradients
from trainables.models import MODELS
from trainables.models.shakedrop import ShakeDrop
from trainables.models.vit import StochasticDepth

PER_SAMPLE = torch.nn.CrossEntropyLoss(reduction="none")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_shakedrop_replays_its_draws() -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile on the CPU needs a C++ compiler (g++ or clang++)")
    torch.compiler.reset()
    with inductor.patch(compile_threads=1):
        shake = torch.compile(ShakeDrop(0.5), fullgraph=True)
        x = torch.ones(64, 1, 2, 2)
        state = torch.get_rng_state()
        first, other = shake(x), shake(x)
        torch.set_rng_state(state)
        assert torch.equal(shake(x), first) and not torch.equal(first, other)


def test_shakedrop_follows_its_equation() -> None:
    shake = ShakeDrop(0.5)
    x = torch.randn(4000, 2, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    torch.manual_seed(1)
    out = shake(x)
    out.sum().backward()
    assert x.grad is not None
    forward, backward = (out / x).detach(), x.grad
    # One factor an image.
    torch.testing.assert_close(forward, forward[:, :1, :1, :1].expand_as(forward))
    torch.testing.assert_close(backward, backward[:, :1, :1, :1].expand_as(backward))
    forward, backward = forward[:, 0, 0, 0], backward[:, 0, 0, 0]
    kept = backward == 1
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close(forward[kept], torch.ones_like(forward[kept]))
    alpha, beta = forward[~kept], backward[~kept]
    assert alpha.min() < -0.95 and alpha.max() > 0.95 and (alpha.abs() <= 1 + 1e-5).all()
    assert beta.min() < 0.05 and beta.max() > 0.95 and ((beta >= 0) & (beta < 1)).all()
    assert abs(torch.corrcoef(torch.stack([alpha, beta]))[0, 1]) < 0.1


def test_shakedrop_evaluates_at_its_expectation() -> None:
    shake = ShakeDrop(0.7)
    x = torch.ones(40_000, 1, 1, 1)
    torch.manual_seed(1)
    mean = shake(x).mean().item()
    state = torch.get_rng_state()
    assert torch.equal(shake.eval()(x), torch.full_like(x, 0.7))
    assert torch.equal(torch.get_rng_state(), state)
    assert mean == pytest.approx(0.7, abs=0.02)


def test_shakedrop_keeps_the_dtype_and_the_layout() -> None:
    x = torch.randn(2, 4, 3, 3).to(torch.bfloat16, memory_format=torch.channels_last)
    out = ShakeDrop(0.5)(x)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_the_keep_rate_falls_linearly_to_a_half() -> None:
    with torch.device("meta"):
        network = MODELS["pyramidnet_110_270_shakedrop"](CIFAR, 10)
    rates = [m.keep for m in network.modules() if isinstance(m, ShakeDrop)]
    assert len(rates) == 54
    assert rates[0] == pytest.approx(1 - 0.5 / 54) and rates[-1] == 0.5
    steps = [a - b for a, b in pairwise(rates)]
    assert steps == pytest.approx([0.5 / 54] * 53)


def test_stochastic_depth_drops_whole_branches_and_keeps_the_mean() -> None:
    drop = StochasticDepth(0.25)
    x = torch.ones(20_000, 2, 3)
    torch.manual_seed(1)
    out = drop(x)
    assert set(out.flatten(1).std(1).tolist()) == {0.0}
    assert sorted(out.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert out.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(drop.eval()(x), x)


class Recorded(GradientOracle):
    """Keeps the gradient of each pass, as one vector."""

    seen: list[Tensor]

    def grad(self, parameters: Sequence[Tensor], index: Index | None = None) -> Gradients:
        gradients = super().grad(parameters, index)
        self.seen.append(torch.cat([g.flatten() for g in gradients if g is not None]))
        return gradients


@pytest.mark.parametrize("name", ["pyramidnet_shakedrop", "deit"])
@pytest.mark.parametrize("replay", [True, False])
def test_sams_second_pass_draws_the_same_branches(name: str, replay: bool) -> None:
    model = smallest(name).double().train()
    x = torch.randn(8, *CIFAR, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    # So near that both passes have the same gradient, but for what they draw.
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=1e-12)
    oracle = Recorded(model, x, torch.arange(8), PER_SAMPLE, replay_rng=replay)
    oracle.seen = []
    optimizer.step(oracle)
    first, second = oracle.seen
    assert torch.allclose(first, second, rtol=1e-6, atol=1e-8) == replay
