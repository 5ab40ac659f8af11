"""Sharpness of a trained model: Hessian eigenvalue and trace, worst-case and adaptive sharpness.

All measures are of the mean loss over fixed samples without augmentation. They describe a model
and never rank it: with BatchNorm, plain measures change under a rescaling that leaves the function
as it is, and they depend on the BatchNorm mode, so that the mode belongs to a figure.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call

from samtune.optimizers import sizes
from samtune.trial import Value
from trainables.models.parts import is_batch_norm

Weights = dict[str, Tensor]
BatchNormMode = Literal["eval", "train"]


@dataclass(frozen=True)
class Surface:
    """The loss of a model as a function of its trainable weights, on fixed samples.

    Attributes:
        model: The model; its weights, buffers and mode are left as they are.
        loss_fn: Loss per sample, `loss_fn(outputs, targets)` of shape (samples,).
        inputs: Inputs, shape (samples, ...).
        targets: Targets, shape (samples, ...).
        batch_norm: `eval` uses the running statistics, `train` those of each batch.
        batch: Samples per forward pass; in mode `train` it also sets the batch statistics.

    """

    model: nn.Module
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    targets: Tensor
    batch_norm: BatchNormMode = "eval"
    batch: int = 256

    @property
    def weights(self) -> Weights:
        """The trainable weights by name, detached."""
        named = self.model.named_parameters()
        return {name: p.detach() for name, p in named if p.requires_grad}

    def batches(self, size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples in parts of `size` and a rest.

        A rest of one joins the part before it where BatchNorm has to normalise it.
        """
        least = 2 if self.batch_norm == "train" else 1
        counts = sizes.at_most(size or self.batch, len(self.inputs), least)
        yield from zip(
            torch.split(self.inputs, counts), torch.split(self.targets, counts), strict=True
        )

    def mean_loss(self, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of one batch at the given weights, differentiable in them."""
        # A copy, because BatchNorm writes its running statistics in mode `train`.
        buffers = {name: b.clone() for name, b in self.model.named_buffers()}
        frozen = {n: p.detach() for n, p in self.model.named_parameters() if n not in weights}
        modes = {module: module.training for module in self.model.modules()}
        try:
            self.model.eval()
            if self.batch_norm == "train":
                for module in self.model.modules():
                    module.training = is_batch_norm(module)
            outputs = functional_call(self.model, {**weights, **frozen, **buffers}, (x,))
            return self.loss_fn(outputs, y).mean()
        finally:
            for module, training in modes.items():
                module.training = training

    def hessian_times(self, vector: Tensor) -> Tensor:
        """Return the Hessian of the mean loss times a flat vector of all trainable weights."""
        weights = {name: w.clone().requires_grad_() for name, w in self.weights.items()}
        leaves = list(weights.values())
        product = torch.zeros_like(vector)
        for x, y in self.batches():
            loss = self.mean_loss(weights, x, y)
            gradient = _flat(torch.autograd.grad(loss, leaves, create_graph=True))
            along = torch.autograd.grad(gradient @ vector, leaves)
            product += _flat(along) * (len(x) / len(self.inputs))
        return product


def lambda_max(surface: Surface, seed: int = 0, tolerance: float = 1e-3) -> float:
    """Return the largest (most positive) eigenvalue of the Hessian, by Lanczos.

    Args:
        surface: The loss surface.
        seed: Seed of the start vector.
        tolerance: Relative accuracy of the eigenvalue.

    """
    size = sum(w.numel() for w in surface.weights.values())
    like = next(iter(surface.weights.values()))

    def times(vector: np.ndarray) -> np.ndarray:
        along = torch.as_tensor(vector, dtype=like.dtype, device=like.device)
        return surface.hessian_times(along).double().cpu().numpy()

    start = np.random.default_rng(seed).standard_normal(size)
    operator = LinearOperator((size, size), matvec=times, dtype=np.float64)
    found = eigsh(operator, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    return float(found[0])


def trace(surface: Surface, probes: int = 50, seed: int = 0) -> tuple[float, float]:
    """Return the trace of the Hessian and its standard error, by Hutchinson's Rademacher probes.

    Args:
        surface: The loss surface.
        probes: Number of probes, at least 2; each costs one Hessian-vector product.
        seed: Seed of the probes.

    """
    like = next(iter(surface.weights.values()))
    size = sum(w.numel() for w in surface.weights.values())
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(probes):
        signs = torch.randint(0, 2, (size,), generator=generator).mul_(2).sub_(1)
        v = signs.to(dtype=like.dtype, device=like.device)
        found.append(float(v @ surface.hessian_times(v)))
    values = np.array(found)
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(probes)


def worst_case(
    surface: Surface, rho: float, m: int = 128, steps: int = 20, *, adaptive: bool = False
) -> float:
    """Return the m-sharpness: the mean over chunks of max L(w + d) - L(w) with ||d|| <= rho.

    The maximum is sought by projected gradient ascent (Andriushchenko et al., 2023), so the
    result is a lower bound.

    Args:
        surface: The loss surface.
        rho: L2 radius of the neighbourhood.
        m: Samples that share a perturbation.
        steps: Gradient steps per chunk.
        adaptive: Measure the radius in d / |w| (ASAM), which a rescaling of weights leaves alone.

    """
    weights = surface.weights
    scale = {n: w.abs() if adaptive else torch.ones_like(w) for n, w in weights.items()}
    total = 0.0
    for x, y in surface.batches(m):
        at_rest = surface.mean_loss(weights, x, y).item()
        total += (_ascend(surface, x, y, scale, rho, steps) - at_rest) * len(x)
    return total / len(surface.inputs)


def _ascend(
    surface: Surface, x: Tensor, y: Tensor, scale: Weights, rho: float, steps: int
) -> float:
    """Return the highest loss on the way up; a perturbation is `scale * unit`, ||unit|| <= rho."""
    weights = surface.weights
    unit = {name: torch.zeros_like(w) for name, w in weights.items()}
    highest = -math.inf
    for step in range(steps + 1):
        for u in unit.values():
            u.requires_grad_()
        moved = {name: w + scale[name] * unit[name] for name, w in weights.items()}
        loss = surface.mean_loss(moved, x, y)
        highest = max(highest, loss.item())
        if step == steps:
            break
        gradient = torch.autograd.grad(loss, list(unit.values()))
        norm = _flat(gradient).norm().clamp_min(1e-30)
        # The first step reaches the sphere; later ones shrink as the ascent settles.
        length = rho if step == 0 else rho / (1 + step / 2)
        with torch.no_grad():
            unit = {
                name: u + length * g / norm
                for (name, u), g in zip(unit.items(), gradient, strict=True)
            }
            over = _flat(list(unit.values())).norm() / rho
            if over > 1:
                unit = {name: u / over for name, u in unit.items()}
    return highest


def fixed_subset(samples: int, count: int, name: Value = "") -> list[int]:
    """Return the indices of a subset that depends only on the data set's name and size.

    Args:
        samples: Number of samples of the data set.
        count: Number of indices wanted.
        name: Name of the data set.

    """

    def key(index: int) -> bytes:
        return hashlib.sha256(f"{name}:{index}".encode()).digest()

    return sorted(sorted(range(samples), key=key)[:count])


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])
