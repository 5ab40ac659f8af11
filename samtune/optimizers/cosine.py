"""The cosine of the two gradients of a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from samtune.optimizers.reals import real
from samtune.optimizers.tensors import TAU, Gradients, alike, flat, global_norm, scaled


class Cosine:
    """The cosine of the angle between the first two gradients that are added.

    It covers the parameters that have both. The host does not wait for the device. A copy of the
    first gradient is kept until the second comes, because the optimizer reuses its tensors.

    Attributes:
        value: shape (); None before the second gradient, 0 where one of them is 0.
    """

    def __init__(self) -> None:
        self.value: Tensor | None = None
        self._first: dict[Tensor, Tensor] = {}

    def add(self, parameters: Sequence[Tensor], gradients: Gradients) -> None:
        """Take in the next gradient; all after the second are ignored."""
        if self.value is not None:
            return
        found = {p: real(g) for p, g in zip(parameters, gradients, strict=True) if g is not None}
        if not self._first:
            copies = scaled([*found.values()], 1.0)
            self._first = {p: g for p, g in zip(found, copies, strict=True) if g is not None}
            return
        both = [p for p in self._first if p in found]
        g, h = [self._first[p] for p in both], [found[p] for p in both]
        lengths = global_norm([*g]) * global_norm([*h])
        pairs = {id(x): y for x, y in zip(g, h, strict=True)}
        for group in alike(g):
            torch._foreach_mul_(group, [pairs[id(x)] for x in group])
        self.value = flat(g, g).sum(dtype=lengths.dtype).to(lengths.device) / (lengths + TAU)
        self._first = {}
