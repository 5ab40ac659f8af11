"""Lookbehind-SAM (Mordido et al., ICML 2024, arXiv 2307.16704)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.result import Passes
from samtune.optimizers.sam import SAM
from samtune.optimizers.tensors import Gradients, accumulate_


@dataclass(eq=False, kw_only=True)
class LookbehindSAM(SAM):
    """k ascent steps, each with its own descent step from w, then a part of the way back.

        v_0 = w_0 = w
        v_i = v_(i-1) + rho grad L_B(v_(i-1)) / ||grad L_B(v_(i-1))||       i = 1 ... k
        w_i = Base(w_(i-1), grad L_B(v_i))
        w  <- w + alpha (w_k - w)

    This follows the authors' code (chandar-lab/Lookbehind-SAM). The gradient at v_i is used for
    descent i and for ascent i + 1, so a step makes k + 1 passes, where that code makes 2 k. The
    ascents do not depend on the descents: all gradients come first, and are kept together with k
    sets of weights. The base makes k steps. k = alpha = 1 is SAM.
    """

    name = "lookbehind_sam"

    k: int = knob(
        2,
        low=1,
        safe=(1, 10),
        doc="ascent and descent steps per step; 1 with alpha 1 gives SAM",
        source="Lookbehind-SAM's code: 2 in its examples, 5 in the class",
    )
    alpha: float = knob(
        0.5,
        low=0.0,
        high=1.0,
        safe=(0.2, 1.0),
        doc="share of the way from w to w_k that is taken",
        source="Lookbehind-SAM's code: 0.2, 0.5 or 0.8",
    )
    _later: list[Gradients] = field(default_factory=list, init=False, repr=False)
    _batch: int = field(default=0, init=False, repr=False)
    _climbed: bool = field(default=False, init=False, repr=False)

    @classmethod
    def sharp_passes(cls, knobs: Mapping[str, Any]) -> Passes:
        """Return the passes of the first gradient and of k ascents."""
        return knobs["k"] + 1.0, knobs["k"] + 1.0

    def direction(self, oracle: GradientOracle) -> Gradients:
        """Return the gradient at v_1; keep those at v_2 to v_k for `update`."""
        self._later = [[None] * len(self.parameters) for _ in range(self.k - 1)]
        self._batch, self._climbed = len(oracle), False
        first = super().direction(oracle)
        self._later = [oracle.shared(d) for d in self._later]
        return first

    def sharp(self, oracle: GradientOracle) -> Gradients:
        """Return the gradient at v_1, and add up the later ones."""
        g = self.gradient(oracle)
        found = []
        with ExitStack() as climb:
            for i in range(self.k):
                # No descent uses the first gradient.
                d, factor = self.along(self.masked(g, oracle), oracle, keep=i > 0)
                climb.enter_context(self.ascended(d, factor, keep=i > 0))
                del d
                g = self.gradient(oracle)
                found.append(g)
        for total, d in zip(self._later, found[1:], strict=True):
            accumulate_(total, d, len(oracle) / self._batch)
        self._climbed = True
        return found[0]

    def update(self, direction: Gradients) -> None:
        """Make the k descent steps, and go back a part of the way."""
        if not self._climbed:
            super().update(direction)
            return
        w = self.weights
        before = torch._foreach_mul(w, 1) if self.alpha < 1 else None
        super().update(direction)
        for d in self._later:
            super().update(d)
        self._later = []
        if before is not None:
            torch._foreach_lerp_(w, before, 1 - self.alpha)
