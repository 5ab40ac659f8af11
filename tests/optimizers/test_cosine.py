"""The two gradients of a step, compared: loss at the perturbed weights, and cosine."""

from __future__ import annotations

import pytest
import torch
from problems import batches, loss_fn, make, plain_net, seeded

from samtune.optimizers import VARIANTS, GradientOracle, StepResult

# Their second pass is not over the batch: they have none, choose samples, or take noisy chunks.
WITHOUT_LOSS = {"sgd", "adamw", "momentum_sam", "k_sam", "bayesian_sam"}
WITHOUT_COSINE = WITHOUT_LOSS | {"esam"}


def step(name: str, compare: bool = True, **knobs: object) -> tuple[StepResult, torch.nn.Module]:
    model = seeded(plain_net)
    x, y = batches(1)[0]
    result = make(name, model, **knobs).step(GradientOracle(model, x, y, loss_fn, compare=compare))
    return result, model


def flat_gradient(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(loss_fn(model(x), y).mean(), list(model.parameters()))
    return torch.cat([g.reshape(-1) for g in found])


@pytest.mark.parametrize("m", [0, 4])
def test_both_figures_are_those_of_the_definition(m: int) -> None:
    model = seeded(plain_net)
    x, y = batches(1)[0]
    rises, cosines = [], []
    for part in torch.arange(len(x)).split(m or len(x)):
        at_rest = loss_fn(model(x[part]), y[part]).mean()
        g = flat_gradient(model, x[part], y[part])
        w = [p.detach().clone() for p in model.parameters()]
        eps = (0.3 * g / g.norm()).split([p.numel() for p in w])
        with torch.no_grad():
            for p, e in zip(model.parameters(), eps, strict=True):
                p += e.view_as(p)
        h = flat_gradient(model, x[part], y[part])
        rises.append((loss_fn(model(x[part]), y[part]).mean() - at_rest).item())
        cosines.append((g @ h / (g.norm() * h.norm())).item())
        with torch.no_grad():
            for p, first in zip(model.parameters(), w, strict=True):
                p.copy_(first)
    result, _ = step("sam", rho=0.3, m=m)
    assert result.sharp_loss is not None and result.cosine is not None
    mean = sum(rises) / len(rises)
    assert (result.sharp_loss - result.loss).item() == pytest.approx(mean, rel=1e-9)
    assert result.cosine.item() == pytest.approx(sum(cosines) / len(cosines), rel=1e-9)
    assert mean > 1e-3 and max(cosines) < 0.9999


@pytest.mark.parametrize("name", VARIANTS)
def test_a_comparison_changes_no_step(name: str) -> None:
    result, compared = step(name)
    plain, model = step(name, compare=False)
    assert plain.cosine is None
    for p, q in zip(compared.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert (result.sharp_loss is None) == (name in WITHOUT_LOSS)
    assert (result.cosine is None) == (name in WITHOUT_COSINE)
    assert result.cosine is None or -1 <= result.cosine.item() <= 1 + 1e-12


def test_a_step_without_a_perturbation_has_neither() -> None:
    result, _ = step("sam", interval=2)
    assert result.sharp_loss is None and result.cosine is None
