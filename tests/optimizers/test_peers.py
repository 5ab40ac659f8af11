"""Agreement with `pytorch-optimizer` (4.1), another implementation, where that one is right.

It takes norms in float32, hence the tolerance. It is not compared, because it is not right, for

- BSAM: never takes the perturbations back, its noise has deviation 1 / (N s) instead of
  1 / sqrt(N s), and its momentum averages wd g instead of g + wd w;
- LookSAM on more than one tensor: projects, and rescales what it reuses, tensor by tensor and not
  as one vector, so that small tensors get as large a share as large ones.

FriendlySAM averaged the gradient less its mean, not the gradient, in versions before.
"""

from __future__ import annotations

from collections.abc import Callable

import problems
import pytest
import torch
from problems import batches, loss_fn, make, plain_net, seeded, train
from torch import Tensor, nn

from samtune.optimizers import VARIANTS

peers = pytest.importorskip("pytorch_optimizer", reason="an extra of the tests")

BASE = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}


class Constant:
    """A constant schedule for the peer's GSAM."""

    def __init__(self, rho: float) -> None:
        self.rho = rho

    def step(self) -> float:
        return self.rho


def wrapper(name: str, **knobs: object) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: getattr(peers, name)(model.parameters(), torch.optim.SGD, **knobs, **BASE)


def wsam(**knobs: object) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: peers.WSAM(model, model.parameters(), torch.optim.SGD, **knobs, **BASE)


def gsam(rho: float, alpha: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: peers.GSAM(
        model.parameters(),
        torch.optim.SGD(model.parameters(), **BASE),
        model,
        Constant(rho),
        alpha=alpha,
    )


PAIRS = {
    "sam": ("sam", {"rho": 0.1}, wrapper("SAM", rho=0.1)),
    "asam": (
        "asam",
        {"rho": 0.4, "eta": 0, "normalize_bias": "all"},
        wrapper("SAM", rho=0.4, adaptive=True),
    ),
    "wsam": ("wsam", {"rho": 0.1, "gamma": 0.8}, wsam(rho=0.1, gamma=0.8)),
    "wsam coupled": (
        "wsam",
        {"rho": 0.1, "gamma": 0.8, "decouple": False},
        wsam(rho=0.1, gamma=0.8, decouple=False),
    ),
    "gsam": (
        "gsam",
        {"rho_max": 0.1, "alpha": 0.4, "rho_schedule": "constant"},
        gsam(0.1, 0.4),
    ),
    "friendly_sam": (
        "friendly_sam",
        {"rho": 0.1, "sigma": 0.7, "lambda_": 0.8},
        wrapper("FriendlySAM", rho=0.1, sigma=0.7, lmbda=0.8),
    ),
}


def peer_trained(
    model: nn.Module, build: Callable[[nn.Module], torch.optim.Optimizer], steps: int
) -> Tensor:
    optimizer = build(model)
    for x, y in batches(steps):

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y).mean()
            loss.backward()
            return loss

        if isinstance(optimizer, peers.GSAM):
            optimizer.set_closure(lambda outputs, targets: loss_fn(outputs, targets).mean(), x, y)
            optimizer.step()
        elif isinstance(optimizer, peers.WSAM):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step(closure)
    return problems.weights(model)


def agreement(
    net: Callable[[], nn.Module],
    name: str,
    knobs: dict[str, object],
    build: Callable[[nn.Module], torch.optim.Optimizer],
    steps: int = 30,
) -> float:
    """Return the distance of the weights after some steps, relative to their change."""
    model, peer = seeded(net), seeded(net)
    start = problems.weights(model)
    train(make(name, model, "sgd", **knobs), model, batches(steps))
    mine, theirs = problems.weights(model), peer_trained(peer, build, steps)
    return float((mine - theirs).norm() / (mine - start).norm())


@pytest.mark.parametrize("case", PAIRS)
def test_agreement(case):
    assert agreement(plain_net, *PAIRS[case]) < 1e-6
    name, knobs, build = PAIRS[case]
    radius = VARIANTS[name].radius_knob
    assert agreement(plain_net, name, {**knobs, radius: 0.2}, build) > 1e-4


def test_look_sam_agrees_on_one_tensor_only():
    knobs = {"rho": 0.1, "k": 3, "alpha": 0.5}
    build = wrapper("LookSAM", **knobs)
    assert agreement(lambda: nn.Linear(6, 3, bias=False), "look_sam", knobs, build) < 1e-5
    assert agreement(plain_net, "look_sam", knobs, build) > 1e-4
