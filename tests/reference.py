"""Textbook versions of the optimizers, from the papers' equations: one tensor at a time, plain
arithmetic, every copy made. Slow on purpose; they are what the fast ones are compared to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Named = dict[str, Tensor]
Perturb = Callable[[Named, Named], Named]
LossFunction = Callable[[Tensor, Tensor], Tensor]


def no_perturbation(w: Named, g: Named) -> Named:
    return {}


def sam(rho: float) -> Perturb:
    """eps = rho g / ||g||."""

    def perturb(w: Named, g: Named) -> Named:
        norm = math.sqrt(sum(float((g[n] ** 2).sum()) for n in g))
        return {n: rho * g[n] / (norm + 1e-12) for n in g}

    return perturb


def asam(rho: float, eta: float, scaled: Callable[[str], bool]) -> Perturb:
    """eps = rho T^2 g / ||T g|| with T = |w| + eta for the parameters `scaled` by name, else 1."""

    def perturb(w: Named, g: Named) -> Named:
        T = {n: w[n].abs() + eta if scaled(n) else torch.ones_like(w[n]) for n in g}
        norm = math.sqrt(sum(float(((T[n] * g[n]) ** 2).sum()) for n in g))
        return {n: rho * T[n] * T[n] * g[n] / (norm + 1e-12) for n in g}

    return perturb


@dataclass
class SGD:
    """v = mu v + (d + lam w) and w = w - lr v, or Nesterov's w = w - lr (d + lam w + mu v);
    `weight_decay` is lam by name."""

    lr: float
    momentum: float = 0.0
    weight_decay: Mapping[str, float] = field(default_factory=dict)
    nesterov: bool = False
    velocity: Named = field(default_factory=dict)

    def step(self, w: Named, d: Named) -> None:
        for n in d:
            total = d[n] + self.weight_decay.get(n, 0.0) * w[n]
            self.velocity[n] = self.momentum * self.velocity.get(n, 0.0 * total) + total
            v = self.velocity[n]
            w[n] -= self.lr * (total + self.momentum * v if self.nesterov else v)


@dataclass
class AdamW:
    """Algorithm 2 of Loshchilov and Hutter; bias-corrected, decay decoupled from the gradient."""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: Mapping[str, float] = field(default_factory=dict)
    mean: Named = field(default_factory=dict)
    square: Named = field(default_factory=dict)
    t: dict[str, int] = field(default_factory=dict)

    def step(self, w: Named, d: Named) -> None:
        for n in d:
            t = self.t[n] = self.t.get(n, 0) + 1
            w[n] -= self.lr * self.weight_decay.get(n, 0.0) * w[n]
            self.mean[n] = self.beta1 * self.mean.get(n, 0.0) + (1 - self.beta1) * d[n]
            self.square[n] = self.beta2 * self.square.get(n, 0.0) + (1 - self.beta2) * d[n] ** 2
            mean = self.mean[n] / (1 - self.beta1**t)
            square = self.square[n] / (1 - self.beta2**t)
            w[n] -= self.lr * mean / (square.sqrt() + self.eps)


def gradient(model: nn.Module, x: Tensor, y: Tensor, loss_fn: LossFunction) -> Named:
    w = {n: p for n, p in model.named_parameters() if p.requires_grad}
    loss = loss_fn(model(x), y).mean()
    found = torch.autograd.grad(loss, list(w.values()), allow_unused=True)
    return {n: g.clone() for n, g in zip(w, found, strict=True) if g is not None}


def train(
    model: nn.Module,
    batches: Iterable[Sequence[Tensor]],
    loss_fn: LossFunction,
    base: SGD | AdamW,
    perturb: Perturb,
) -> None:
    """Trains the model in place: two passes with equal dropout masks, BatchNorm moved by one."""
    w = {n: p.data for n, p in model.named_parameters()}
    for x, y in batches:
        before = torch.get_rng_state()
        g = gradient(model, x, y, loss_fn)
        eps = perturb(w, g)
        d = g
        if eps:
            after = torch.get_rng_state()
            buffers = {n: b.clone() for n, b in model.named_buffers()}
            kept = {n: w[n].clone() for n in eps}
            for n in eps:
                w[n] += eps[n]
            torch.set_rng_state(before)
            d = gradient(model, x, y, loss_fn)
            torch.set_rng_state(after)
            for n, b in model.named_buffers():
                b.copy_(buffers[n])
            for n in eps:
                w[n].copy_(kept[n])
        base.step(w, d)
