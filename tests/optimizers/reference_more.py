"""Textbook versions of the further variants, as in `reference.py`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
from reference import SGD, Batch, Direction, Named, dot, esam, norm, sam


def along(v: Named, length: float, T: Named | None = None) -> Named:
    """Return length v / ||v||, or length T^2 v / ||T v||."""
    T = T or {n: torch.ones_like(v[n]) for n in v}
    whole = norm({n: T[n] * v[n] for n in v}) + 1e-12
    return {n: length * T[n] * T[n] * v[n] / whole for n in v}


def sum_of(*terms: tuple[float, Named]) -> Named:
    return {n: sum(factor * v[n] for factor, v in terms) for n in terms[0][1]}


def perpendicular(g: Named, h: Named) -> Named:
    """Return the part of g that is orthogonal to h."""
    return sum_of((1, g), (-dot(g, h) / dot(h, h), h))


def gsam(rho_max: float, alpha: float) -> Direction:
    def direction(batch: Batch) -> Named:
        g = batch.gradient()
        h = batch.gradient(along(g, rho_max, batch.T))
        return sum_of((1, h), (-alpha, perpendicular(g, h)))

    return direction


def fisher_sam(rho: float, eta: float) -> Direction:
    def direction(batch: Batch) -> Named:
        g = batch.gradient()
        inverse = {n: g[n] / (1 + eta * g[n] ** 2) for n in g}
        q = math.sqrt(dot(g, inverse))
        return batch.gradient(sum_of((rho / q, inverse)))

    return direction


def friendly_sam(rho: float, sigma: float, lambda_: float) -> Direction:
    mean: Named = {}

    def direction(batch: Batch) -> Named:
        g = batch.gradient()
        v = {n: g[n] - sigma * mean[n] if n in mean else g[n] for n in g}
        for n in g:
            mean[n] = lambda_ * mean[n] + (1 - lambda_) * g[n] if n in mean else g[n]
        return batch.gradient(along(v, rho, batch.T))

    return direction


def vasso(rho: float, theta: float) -> Direction:
    e: Named = {}

    def direction(batch: Batch) -> Named:
        g = batch.gradient()
        for n in g:
            e[n] = (1 - theta) * e[n] + theta * g[n] if n in e else g[n]
        return batch.gradient(along(e, rho, batch.T))

    return direction


def coupled_wsam(rho: float, gamma: float) -> Direction:
    def direction(batch: Batch) -> Named:
        g = batch.gradient()
        h = batch.gradient(along(g, rho, batch.T))
        return sum_of((1, g), (gamma / (1 - gamma), sum_of((1, h), (-1, g))))

    return direction


def decoupled_wsam(rho: float, gamma: float) -> Direction:
    def direction(batch: Batch) -> Named:
        g = batch.gradient()
        h = batch.gradient(along(g, rho, batch.T))
        batch.base.step(batch.w, g)
        for n in g:
            batch.w[n].sub_(batch.base.lr * gamma / (1 - gamma) * (h[n] - g[n]))
        return {}

    return direction


def momentum_sam(rho: float) -> Direction:
    def direction(batch: Batch) -> Named:
        v = batch.base.velocity if isinstance(batch.base, SGD) else batch.base.mean
        return batch.gradient(along(v, -rho))

    return direction


def stable_sam(rho: float) -> Direction:
    def direction(batch: Batch) -> Named:
        g = batch.gradient()
        h = batch.gradient(along(g, rho, batch.T))
        return sum_of((norm(g) / norm(h), h))

    return direction


def unified_sam(rho: float, lambda_: float) -> Direction:
    def direction(batch: Batch) -> Named:
        g = batch.gradient()
        T = batch.T or {n: torch.ones_like(g[n]) for n in g}
        whole = norm({n: T[n] * g[n] for n in g})
        share = rho * (1 - lambda_ + lambda_ / whole)
        return batch.gradient({n: share * T[n] * T[n] * g[n] for n in g})

    return direction


def ae_sam(rho: float, delta: float, lambda_1: float, lambda_2: float, steps: int) -> Direction:
    t, mu, variance = 0, 0.0, 0.0

    def direction(batch: Batch) -> Named:
        nonlocal t, mu, variance
        g = batch.gradient()
        square = norm(g) ** 2
        mu = delta * mu + (1 - delta) * square
        variance = delta * variance + (1 - delta) * (square - mu) ** 2
        c = t / steps * lambda_1 + (1 - t / steps) * lambda_2
        t += 1
        return (
            batch.gradient(along(g, rho, batch.T)) if square >= mu + c * math.sqrt(variance) else g
        )

    return direction


def sparse_sam(
    rho: float, sparsity: float, drop_rate: float, update_freq: int, steps: int
) -> Direction:
    t, mask = 0, {}

    def rand(count: int) -> list[float]:
        seed = random.Random(f"0 mask {t}").getrandbits(63)
        return torch.rand(count, generator=torch.Generator().manual_seed(seed)).tolist()

    def updated(g: Named) -> Named:
        # Matrices are the first param group of the test, and vectors the second.
        names = [n for n in g if g[n].ndim > 1] + [n for n in g if g[n].ndim == 1]
        places = [(n, i) for n in names for i in range(g[n].numel())]
        chance = dict(zip(places, rand(len(places)), strict=True))
        live = len(places) - math.ceil(sparsity * len(places))
        if not mask:
            chosen = sorted(places, key=chance.get, reverse=True)[:live]
        else:
            rate = drop_rate * (1 + math.cos(math.pi * t / steps)) / 2
            replaced = min(int(rate * live), len(places) - live)
            on = [(n, i) for n, i in places if mask[n].flatten()[i] == 1]
            off = [(n, i) for n, i in places if mask[n].flatten()[i] == 0]
            on.sort(key=lambda place: float(g[place[0]].flatten()[place[1]].abs()), reverse=True)
            off.sort(key=chance.get, reverse=True)
            chosen = on[: live - replaced] + off[:replaced]
        found = {n: torch.zeros_like(g[n]) for n in g}
        for n, i in chosen:
            found[n].view(-1)[i] = 1
        return found

    def direction(batch: Batch) -> Named:
        nonlocal t, mask
        g = batch.gradient()
        if t % update_freq == 0:
            mask = updated(g)
        t += 1
        eps = along(g, rho, batch.T)
        return batch.gradient({n: mask[n] * eps[n] for n in g})

    return direction


def cr_sam(rho: float, gamma: float, beta: float) -> Direction:
    def direction(batch: Batch) -> Named:
        g = batch.gradient()
        up, down = batch.gradient(along(g, rho, batch.T)), batch.gradient(along(g, -rho, batch.T))
        curvature = sum_of((1, up), (1, down), (-2, g))
        return sum_of((1, up), (gamma, curvature), (beta, up), (-beta, down))

    return direction


def gam(
    grad_rho: float, grad_norm_rho: float, alpha: float, beta: float, gamma: float
) -> Direction:
    def direction(batch: Batch) -> Named:
        g0 = batch.gradient()
        g1 = batch.gradient(along(g0, grad_rho))
        eps = along(sum_of((1, g1), (-1, g0)), grad_norm_rho)
        g2 = batch.gradient(eps)
        g3 = batch.gradient(sum_of((1, eps), (1, along(g2, grad_rho))))
        q = sum_of((alpha, g1), (1 - alpha, g3))
        m = sum_of((1, g0), (abs(1 - beta), g2))
        return sum_of((1, q), (-gamma, perpendicular(m, q)))

    return direction


def k_sam(rho: float, kept: float) -> Direction:
    def direction(batch: Batch) -> Named:
        losses = batch.losses().tolist()
        order = sorted(range(len(losses)), key=losses.__getitem__, reverse=True)
        largest = torch.tensor(order[: math.ceil(kept * len(losses))])
        g = batch.gradient(index=largest)
        return batch.gradient(along(g, rho, batch.T), largest)

    return direction


def lookbehind_sam(rho: float, k: int, alpha: float) -> Direction:
    """Return the direction, computed with the authors' 2 k passes."""

    def direction(batch: Batch) -> Named:
        start = {n: w.clone() for n, w in batch.w.items()}
        fast = batch.w
        eps: Named = {}
        descents = []
        for _ in range(k):
            g = batch.gradient(eps)
            with batch.at(eps):
                T = batch.T
            eps = sum_of((1, along(g, rho, T)), (1, eps)) if eps else along(g, rho, T)
            descents.append(batch.gradient(eps))
        for h in descents:
            batch.base.step(fast, h)
        for n in start:
            batch.w[n].copy_(start[n] + alpha * (fast[n] - start[n]))
        return {}

    return direction


STEPS = 101
"""The number of steps in the test: a hundred batches and a small one."""

_CASES: dict[str, tuple[Callable[..., Direction], dict[str, object]]] = {
    "fisher_sam": (fisher_sam, {"rho": 0.1, "eta": 50.0}),
    "friendly_sam": (friendly_sam, {"rho": 0.1, "sigma": 1.0, "lambda_": 0.9}),
    "friendly_sam half": (friendly_sam, {"rho": 0.1, "sigma": 0.5, "lambda_": 0.6}),
    "vasso": (vasso, {"rho": 0.1, "theta": 0.3}),
    "vasso fast": (vasso, {"rho": 0.1, "theta": 0.9}),
    "wsam": (decoupled_wsam, {"rho": 0.1, "gamma": 0.8}),
    "momentum_sam": (momentum_sam, {"rho": 0.5}),
    "stable_sam": (stable_sam, {"rho": 0.2}),
    "unified_sam": (unified_sam, {"rho": 0.1, "lambda_": 0.3}),
    "cr_sam": (cr_sam, {"rho": 0.1, "gamma": 0.2, "beta": 0.3}),
    "gam": (
        gam,
        {"grad_rho": 0.05, "grad_norm_rho": 0.2, "alpha": 0.6, "beta": 0.5, "gamma": 0.3},
    ),
    "k_sam": (k_sam, {"rho": 0.1, "kept": 0.4}),
    "lookbehind_sam": (lookbehind_sam, {"rho": 0.1, "k": 3, "alpha": 0.4}),
}

TEXTBOOK: dict[str, tuple[dict[str, object], Callable[[], Direction]]] = {
    case: (knobs, lambda make=make, knobs=knobs: make(**knobs))
    for case, (make, knobs) in _CASES.items()
}

TEXTBOOK |= {
    "gsam": (
        {"rho_max": 0.1, "alpha": 0.4, "rho_schedule": "constant"},
        lambda: gsam(0.1, 0.4),
    ),
    "wsam coupled": (
        {"rho": 0.1, "gamma": 0.8, "decouple": False},
        lambda: coupled_wsam(0.1, 0.8),
    ),
    "ae_sam": (
        {"rho": 0.1, "delta": 0.8, "lambda_1": -0.8, "lambda_2": 0.8},
        lambda: ae_sam(0.1, 0.8, -0.8, 0.8, STEPS),
    ),
    "sparse_sam": (
        {"rho": 0.2, "sparsity": 0.6, "drop_rate": 0.5, "update_freq": 10},
        lambda: sparse_sam(0.2, 0.6, 0.5, 10, STEPS),
    ),
}

ADAPTIVE: dict[str, tuple[dict[str, object], Callable[[], Direction]]] = {
    "sam": ({"rho": 0.5}, lambda: sam(0.5)),
    "esam": ({"rho": 0.5, "beta": 0.6, "gamma": 0.3}, lambda: esam(0.5, 0.6, 0.3, "element")),
    "esam tensor": (
        {"rho": 0.5, "beta": 0.5, "gamma": 0.75, "swp_mode": "tensor"},
        lambda: esam(0.5, 0.5, 0.75, "tensor"),
    ),
    **{
        case: TEXTBOOK[case]
        for case in TEXTBOOK
        if case.split()[0] not in {"fisher_sam", "gam", "momentum_sam"}
    },
}
"""The variants that can perturb as ASAM does, by case. Their T is that of the batch."""
