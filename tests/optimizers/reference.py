"""Textbook versions of the optimizers, written from the papers' equations, tensor by tensor.

They are slow and simple on purpose. The tests compare the fast versions with them.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Named = dict[str, Tensor]
LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Batch:
    """One batch with the weights `w`, which gives gradients and losses at w or w + eps, by name.

    Each pass draws the dropout masks of the first one, and only the first one moves BatchNorm.
    With `eta` the perturbations are ASAM's.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    loss_fn: LossFunction
    random: Tensor | None = None
    base: SGD | AdamW | None = None
    eta: float | None = None

    @property
    def T(self) -> Named | None:
        """|w| + eta for weights and 1 for the others, or None for plain perturbations."""
        if self.eta is None:
            return None
        official = {n: "weight" in n for n in self.w}
        return {
            n: w.abs() + self.eta if official[n] else torch.ones_like(w) for n, w in self.w.items()
        }

    @property
    def w(self) -> Named:
        return {n: p.data for n, p in self.model.named_parameters()}

    def gradient(self, eps: Named | None = None, index: Tensor | slice = slice(None)) -> Named:
        w = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        with self.at(eps or {}):
            loss = self.loss_fn(self.model(self.x[index]), self.y[index]).mean()
            found = torch.autograd.grad(loss, list(w.values()), allow_unused=True)
        return {n: g.clone() for n, g in zip(w, found, strict=True) if g is not None}

    def losses(self, eps: Named | None = None) -> Tensor:
        with self.at(eps or {}), torch.no_grad():
            return self.loss_fn(self.model(self.x), self.y)

    @contextmanager
    def at(self, eps: Named) -> Iterator[None]:
        first = self.random is None
        if first:
            self.random = torch.get_rng_state()
        after = torch.get_rng_state()
        buffers = {n: b.clone() for n, b in self.model.named_buffers()}
        kept = {n: self.w[n].clone() for n in eps}
        for n in eps:
            self.w[n].add_(eps[n])
        torch.set_rng_state(self.random)
        yield
        for n in eps:
            self.w[n].copy_(kept[n])
        if not first:
            torch.set_rng_state(after)
            for n, b in self.model.named_buffers():
                b.copy_(buffers[n])


Direction = Callable[[Batch], Named]
"""Function that returns a variant's direction for a batch; a closure if the variant has memory."""


def norm(v: Named) -> float:
    return math.sqrt(sum(float((t**2).sum()) for t in v.values()))


def dot(a: Named, b: Named) -> float:
    return sum(float((a[n] * b[n]).sum()) for n in a)


def plain(batch: Batch) -> Named:
    return batch.gradient()


def sam(rho: float) -> Direction:
    """Return grad L(w + eps) with eps = rho g / ||g||."""

    def direction(batch: Batch) -> Named:
        g = batch.gradient()
        T = batch.T or {n: torch.ones_like(g[n]) for n in g}
        length = norm({n: T[n] * g[n] for n in g}) + 1e-12
        return batch.gradient({n: rho * T[n] * T[n] * g[n] / length for n in g})

    return direction


def asam(rho: float, eta: float, scaled: Callable[[str], bool]) -> Direction:
    """Perturb by rho T^2 g / ||T g||; T = |w| + eta for the names that are `scaled`, else 1."""

    def direction(batch: Batch) -> Named:
        g, w = batch.gradient(), batch.w
        T = {n: w[n].abs() + eta if scaled(n) else torch.ones_like(w[n]) for n in g}
        length = norm({n: T[n] * g[n] for n in g}) + 1e-12
        return batch.gradient({n: rho * T[n] * T[n] * g[n] / length for n in g})

    return direction


def stream(*words: object) -> torch.Generator:
    """Return the generator that variants use for these words, with seed 0."""
    return torch.Generator().manual_seed(
        random.Random(" ".join(map(str, (0, *words)))).getrandbits(63)
    )


def in_groups(names: Iterable[str], w: Named) -> list[str]:
    """Return the order of the parameters if those of several dimensions are the first group."""
    return sorted(names, key=lambda n: w[n].ndim <= 1)


def esam(rho: float, beta: float, gamma: float, form: str) -> Direction:
    """Perturb by rho / beta M g / ||g||; descend on the samples with the largest rise in loss."""
    steps = itertools.count()

    def masks(g: Named, batch: Batch) -> Named:
        if form == "element":
            total = sum(t.numel() for t in g.values())
            left = torch.empty(total, dtype=torch.float64)
            left.bernoulli_(beta, generator=stream("draw", next(steps)))
            found = {}
            for n in in_groups(g, batch.w):
                found[n], left = left[: g[n].numel()].view(g[n].shape), left[g[n].numel() :]
            return found
        trained = {n for n, p in batch.model.named_parameters() if p.requires_grad}
        chances = torch.rand(len(trained), generator=stream("draw", next(steps)))
        kept = zip(in_groups([n for n in batch.w if n in trained], batch.w), chances, strict=True)
        # One tensor at least.
        found = {n: float(c <= max(beta, chances.min())) for n, c in kept}
        return {n: torch.full_like(g[n], found[n]) for n in g}

    def direction(batch: Batch) -> Named:
        g, clean = batch.gradient(), batch.losses()
        M = masks(g, batch)
        T = batch.T or {n: torch.ones_like(g[n]) for n in g}
        masked = {n: M[n] * g[n] for n in g}
        whole = g if form == "element" else masked
        length = norm({n: T[n] * whole[n] for n in g}) + 1e-12
        eps = {n: rho / beta * T[n] * T[n] * masked[n] / length for n in g}
        rise = batch.losses(eps) - clean
        count = math.ceil(gamma * len(rise))
        return batch.gradient(eps, torch.argsort(rise, descending=True)[:count])

    return direction


def look_sam(rho: float, k: int, alpha: float | None, rule: str = "") -> Direction:
    """SAM in each k-th step, g + alpha ||g|| g_v / ||g_v|| between; alpha None is ||g_v|| / ||g||
    of the last SAM step. `rule` lars and global are Look-LayerSAM's."""
    steps = itertools.count()
    g_v: Named = {}
    ratio = [0.0]

    def perturbation(g: Named, w: Named) -> Named:
        if not rule:
            return {n: rho * g[n] / (norm(g) + 1e-12) for n in g}
        whole = norm(g) if rule == "global" else 1.0
        return {n: rho * w[n].norm() * g[n] / (g[n].norm() + 1e-12) / whole for n in g}

    def direction(batch: Batch) -> Named:
        g = batch.gradient()
        if next(steps) % k:
            share = ratio[0] if alpha is None else alpha
            return {n: g[n] + share * norm(g) / norm(g_v) * g_v[n] for n in g}
        h = batch.gradient(perturbation(g, batch.w))
        for n in g:
            g_v[n] = h[n] - dot(g, h) / norm(g) ** 2 * g[n]
        ratio[0] = norm(g_v) / norm(g)
        return h

    return direction


@dataclass
class Bayes:
    """bSAM with its chunks and its own update; `parameters` in the optimizer's order."""

    parameters: list[str]
    n_data: int
    lr: float
    rho: float
    prior_precision: float
    damping: float
    beta1: float
    beta2: float
    dafactor: float
    m: int
    s: Named = field(default_factory=dict)
    gm: Named = field(default_factory=dict)
    draws: int = 0

    def step(self, batch: Batch) -> None:
        N = self.n_data * self.dafactor
        delta = self.prior_precision / N
        w = batch.w
        if not self.s:
            self.s = {n: torch.ones_like(w[n]) for n in self.parameters}
            self.gm = {n: torch.zeros_like(w[n]) for n in self.parameters}
        batch.losses()
        h: Named = {}
        a: Named = {}
        for index in torch.arange(len(batch.y)).tensor_split(min(self.m, len(batch.y))):
            share = len(index) / len(batch.y)
            g_k = batch.gradient(self.noise(N), index)
            eps = {n: self.rho * g_k[n] / self.s[n] for n in g_k}
            h_k = batch.gradient(eps, index)
            for n in g_k:
                h[n] = h.get(n, 0.0) + share * h_k[n]
                a[n] = a.get(n, 0.0) + share * self.s[n].sqrt() * g_k[n].abs()
        for n in h:
            self.gm[n] = self.beta1 * self.gm[n] + (1 - self.beta1) * (h[n] + delta * w[n])
            w[n] -= self.lr * self.gm[n] / self.s[n]
            rise = a[n] + self.damping + delta
            self.s[n] = self.beta2 * self.s[n] + (1 - self.beta2) * rise

    def noise(self, N: float) -> Named:
        total = sum(self.s[n].numel() for n in self.parameters)
        generator = stream("step", self.draws, 0)
        left = torch.randn(total, generator=generator, dtype=torch.float64)
        self.draws += 1
        found = {}
        for n in self.parameters:
            size = self.s[n].numel()
            found[n] = left[:size].view(self.s[n].shape) / (N * self.s[n]).sqrt()
            left = left[size:]
        return found


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


def train(
    model: nn.Module,
    batches: Iterable[Sequence[Tensor]],
    loss_fn: LossFunction,
    base: SGD | AdamW,
    direction: Direction,
    eta: float | None = None,
) -> None:
    """Train the model in place; with `eta` the perturbations are ASAM's."""
    for x, y in batches:
        batch = Batch(model, x, y, loss_fn, base=base, eta=eta)
        d = direction(batch)
        base.step(batch.w, d)
