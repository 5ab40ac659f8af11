"""Bayesian SAM (Moellenhoff and Khan, ICLR 2023, arXiv 2210.01620)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from samtune.optimizers.groups import Group
from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.result import Passes
from samtune.optimizers.tensors import Gradients, accumulate_, alike, shaped
from samtune.optimizers.two_pass import Scheduled


@dataclass(eq=False, kw_only=True, init=False)
class BayesianSAM(Scheduled):
    """A Gaussian N(w, 1 / (N s)), fitted to the posterior of the weights; s is their precision.

        for each of m chunks B_k of the batch, with noise n_k ~ N(0, I) of its own:
            g_k = grad L_B_k(w + n_k / sqrt(N s))
            h_k = grad L_B_k(w + rho_t g_k / s)         from the mean w, and not normalised
        gm <- beta1 gm + (1 - beta1) (mean_k h_k + delta w)
        w  <- w - lr gm / s                             the old s, as in the authors' code
        s  <- beta2 s + (1 - beta2) (mean_k sqrt(s) |g_k| + damping + delta)

    N = n_data dafactor and delta = prior_precision / N, where `n_data` counts training samples.
    This is an optimizer of its own: it takes parameters in place of a base, and its `base` only
    holds their groups. One forward pass at w gives BatchNorm its statistics and the step its loss.
    `sampled_weights` draws from the posterior for evaluation. rho_t is `rho` by its schedule, a
    length in units of g / s. There is no `params`: the posterior is of all weights, and its bound
    has no form for some of them. A parameter group may have its own value of each knob except
    `dafactor`, `m` and `clip`.
    """

    name = "bayesian_sam"
    bases = ()

    lr: float = knob(
        0.5,
        low=0.0,
        safe=(0.05, 1.0),
        scale="log",
        doc="learning rate, of steps already divided by s",
        source="bSAM README: 0.5 on CIFAR, 0.25 on TinyImageNet",
    )
    rho: float = knob(
        0.01,
        low=0.0,
        safe=(1e-5, 0.1),
        scale="log",
        doc="length of the ascent in units of g / s",
        source="bSAM README: 0.01 on CIFAR, 5e-5 on TinyImageNet",
    )
    prior_precision: float = knob(
        40.0,
        low=0.0,
        safe=(5.0, 200.0),
        scale="log",
        doc="precision of the Gaussian prior of the weights: their decay",
        source="bSAM README: 40 on CIFAR, 25 on TinyImageNet",
    )
    damping: float = knob(
        0.1,
        low=0.0,
        safe=(1e-2, 0.5),
        scale="log",
        doc="added to s in its average; keeps it from 0",
        source="bSAM's code: 0.1",
    )
    beta1: float = knob(
        0.9,
        low=0.0,
        high=1.0,
        safe=(0.8, 0.99),
        doc="decay of the mean gradient gm",
        source="bSAM's code: 0.9",
    )
    beta2: float = knob(
        0.999,
        low=0.0,
        high=1.0,
        safe=(0.9, 0.9999),
        doc="decay of the precision s",
        source="bSAM's code: 0.999",
    )
    dafactor: float = knob(
        1.0,
        low=1.0,
        safe=(1.0, 10.0),
        scale="log",
        doc="what augmentation multiplies the training data by",
        source="bSAM README: 4 on CIFAR with crops and flips, 1 on TinyImageNet",
    )
    m: int = knob(
        8,
        low=1,
        safe=(1, 8),
        scale="log",
        doc="chunks of the batch, each with a noise of its own",
        source="bSAM README: 8 of a batch of 200",
    )
    s_init: float = knob(
        1.0,
        low=1e-6,
        safe=(0.1, 10.0),
        scale="log",
        doc="first precision s",
        source="bSAM's code: 1",
    )
    n_data: int = field(repr=False)
    _absolute: Gradients = field(default_factory=list, init=False, repr=False)

    def __init__(self, parameters: Any, *, n_data: int, seed: int = 0, **knobs: Any) -> None:
        if n_data < 1:
            raise ValueError(f"n_data is {n_data}; it counts training samples, so 1 or more")
        self.n_data = n_data
        for name, value in knobs.items():
            setattr(self, name, value)
        settings = {name: getattr(self, name) for name in ("rho_schedule", "rho_min", "clip")}
        super().__init__(_Groups(parameters, {"lr": self.lr}), seed=seed, **settings)

    @classmethod
    def knobs_of_groups(cls) -> tuple[str, ...]:
        """Return all knobs but those of the data and of the whole step."""
        return tuple(name for name in cls.knobs() if name not in ("dafactor", "m", "clip"))

    @classmethod
    def build(
        cls,
        parameters: Iterable[Tensor],
        make_base: Callable[[Iterable[Tensor]], torch.optim.Optimizer],
        *,
        n_data: int,
        **knobs: Any,
    ) -> BayesianSAM:
        """Return the variant over the parameters; it has no base."""
        return cls(parameters, n_data=n_data, **knobs)

    @classmethod
    def passes_of(cls, knobs: Mapping[str, Any]) -> Passes:
        """Return the passes per step: one over the batch at w, and two over its chunks."""
        return 3.0, 2.0

    def direction(self, oracle: GradientOracle) -> Gradients:
        """Return mean_k h_k; keep mean_k |g_k| for `update`."""
        oracle.losses()
        h: Gradients = [None] * len(self.parameters)
        a: Gradients = [None] * len(self.parameters)
        roots = self._roots()
        for chunk, share in oracle.parts(self.m):
            with self.perturbed(self.noise(roots), 1.0):
                g_k = self.gradient(oracle, chunk)
            ascent = self._ascent(g_k)
            torch._foreach_abs_([d for d in g_k if d is not None])
            accumulate_(a, g_k, share)
            del g_k
            with self.ascended(ascent, self.radius):
                del ascent
                accumulate_(h, self.gradient(oracle, chunk), share)
        self._absolute = oracle.shared(a)
        return h

    def noise(self, roots: Gradients) -> Gradients:
        """Return n / roots with a new n ~ N(0, I) from the variant's own generator."""
        draw = self.memory.get("draws", 0)
        self.memory["draws"] = draw + 1
        return self._noise(roots, "step", draw)

    @contextmanager
    def sampled_weights(self, sample: int) -> Iterator[None]:
        """Set the weights to a draw from the posterior inside the block.

        The authors average the class probabilities of 32 draws.

        Args:
            sample: the number of the draw; equal numbers give equal draws.
        """
        with torch.no_grad(), self.perturbed(self._noise(self._roots(), "sample", sample), 1.0):
            yield

    @property
    def _N(self) -> float:
        return self.n_data * self.dafactor

    def _take_in_groups(self) -> None:
        super()._take_in_groups()
        memory, weights = self.memory, self.weights
        for name, first in (("s", self.values("s_init")), ("gm", [0.0] * len(weights))):
            known = memory.get(name, [None] * len(weights))
            memory[name] = [
                torch.full_like(w, value) if t is None else t
                for t, w, value in zip(known, weights, first, strict=True)
            ]

    def _roots(self) -> Gradients:
        """Return sqrt(N s); None where frozen."""
        trained = [p.requires_grad for p in self.parameters]
        s = [t for t, own in zip(self.memory["s"], trained, strict=True) if own]
        roots = torch._foreach_mul(s, self._N) if s else ()
        if roots:
            torch._foreach_sqrt_(roots)
        found = iter(roots)
        return [next(found) if own else None for own in trained]

    def _noise(self, roots: Gradients, *words: object) -> Gradients:
        """Return n / roots; None where roots is None."""
        eps: dict[int, Tensor] = {}
        for number, group in enumerate(alike(t for t in roots if t is not None)):
            like, sizes = group[0], [t.numel() for t in group]
            flat = torch.randn(
                sum(sizes),
                generator=self.generator(like.device, *words, number),
                dtype=like.dtype,
                device=like.device,
            )
            n = [t for t in shaped(flat, group) if t is not None]
            torch._foreach_div_(n, group)
            eps |= zip(map(id, group), n, strict=True)
        return [None if t is None else eps[id(t)] for t in roots]

    def _ascent(self, g: Gradients) -> Gradients:
        """Return g / s."""
        pairs = [(d, s) for d, s in zip(g, self.memory["s"], strict=True) if d is not None]
        eps = torch._foreach_div([d for d, _ in pairs], [s for _, s in pairs])
        found = iter(eps)
        return [None if d is None else next(found) for d in g]

    def update(self, direction: Gradients) -> None:
        """Descend along gm / s, and average s."""
        self.clip_(direction)
        step: Callable[..., Any] = self.base.step
        step(partial(self._update, direction))
        self._absolute = []

    def _update(self, h: Gradients) -> None:
        first, weights = 0, self.weights
        for group in self.base.param_groups:
            last = first + len(group["params"])
            places = [i for i in range(first, last) if h[i] is not None]
            first = last
            if places:
                self._update_group(group, places, weights, h)

    def _update_group(
        self, group: Group, places: list[int], weights: list[Tensor], h: Gradients
    ) -> None:
        delta = self.value_in(group, "prior_precision") / self._N
        w = [weights[i] for i in places]
        d = [t for i in places if (t := h[i]) is not None]
        s = [self.memory["s"][i] for i in places]
        gm = [self.memory["gm"][i] for i in places]
        a = [
            torch.zeros_like(t) if (own := self._absolute[i]) is None else own
            for i, t in zip(places, d, strict=True)
        ]
        torch._foreach_add_(d, w, alpha=delta)
        torch._foreach_lerp_(gm, d, 1 - self.value_in(group, "beta1"))
        lr = group["lr"]
        if isinstance(lr, Tensor):
            # Passed as `value`, the number would be read by the host, which would wait for it.
            step = torch._foreach_div(gm, s)
            torch._foreach_mul_(step, lr)
            torch._foreach_sub_(w, step)
        else:
            torch._foreach_addcdiv_(w, gm, s, value=-float(lr))
        torch._foreach_mul_(a, torch._foreach_sqrt(s))
        torch._foreach_add_(a, self.value_in(group, "damping") + delta)
        torch._foreach_lerp_(s, a, 1 - self.value_in(group, "beta2"))


class _Groups(torch.optim.Optimizer):
    """Holds the parameter groups for learning-rate schedulers; its step updates nothing."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return None if closure is None else closure()
