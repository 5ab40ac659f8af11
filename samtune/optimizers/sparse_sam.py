"""Sparse SAM (Mi et al., NeurIPS 2022, arXiv 2210.05177)."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from samtune.optimizers.knobs import knob
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.pairs import mean_square, norm
from samtune.optimizers.sam import SAM
from samtune.optimizers.tensors import Ascent, Gradients, flat, over, shaped


@dataclass(eq=False, kw_only=True)
class SparseSAM(SAM):
    """SAM that perturbs a share of the weights, by a mask M that is updated at intervals.

        eps = M * rho g / ||g||                 g = grad L_B(w); the norm is over all of g
        w  <- Base(w, grad L_B(w + eps))

    M has ceil(sparsity n) zeros for n weights. `mask: dynamic` (SSAM-D) begins at random places.
    Every `update_freq` steps it drops the live weights with the smallest |g|, a share of drop_rate
    (1 + cos(pi t / T)) / 2, and as many others take their places at random; at drop_rate 0 M
    stays. `mask: fisher` (SSAM-F) takes the weights with the most Fisher information: the mean
    square of single samples' gradients over the first `samples` of the batch, in the first step
    and every `update_freq` later. BatchNorm then sees single samples, as in the authors' code,
    which counts `update_freq` in epochs. A weight without a gradient in the first step gets its
    mask with its first gradient. The method saves no compute. `sparsity` 0 is SAM.
    """

    name = "sparse_sam"

    sparsity: float = knob(
        0.5,
        low=0.0,
        high=1.0,
        safe=(0.0, 0.95),
        doc="share of the weights that is not perturbed; 0 gives SAM",
        source="Sparse SAM's code: 0.2, runs at 0.5 and above",
    )
    mask: str = knob(
        "dynamic",
        choices=("dynamic", "fisher"),
        doc="weights are dropped by |g| and grown at random, or chosen by Fisher information",
        source="Sparse SAM paper: SSAM-D and SSAM-F",
    )
    drop_rate: float = knob(
        0.5,
        low=0.0,
        high=1.0,
        safe=(0.0, 1.0),
        doc="share of the live weights replaced at the first update; by a cosine down to 0; only "
        "for the dynamic mask",
        source="Sparse SAM's code: 0.5",
    )
    update_freq: int = knob(
        100,
        low=1,
        safe=(10, 10000),
        scale="log",
        doc="steps from one update of the mask to the next",
        source="Sparse SAM's code: 5 epochs",
    )
    samples: int = knob(
        16,
        low=1,
        safe=(8, 128),
        scale="log",
        doc="samples whose gradients make the Fisher mask, a pass each",
        source="Sparse SAM's code: 16 to 128",
    )

    def kind(self) -> Hashable | None:
        """Return the kind of the next step, None where it updates M."""
        if not self.sparsity or not self._perturbs(self.memory.get("turn", 0)):
            return super().kind()
        chunks = self.memory.get("chunks") or [self.memory]
        due = any(memory.get("age", 0) % self.update_freq == 0 for memory in chunks)
        return None if due else super().kind()

    def ascent(self, g: Gradients, oracle: GradientOracle) -> Ascent:
        """Return eps = M * rho g / ||g||."""
        if not self.sparsity:
            return super().ascent(g, oracle)
        masks, length = self._masks(g, oracle)
        if length is None or self.adaptive:
            g, length = self.steep(g, oracle)
        factor = over(self.radius, length)
        pairs = [(e, m) for e, m in zip(g, masks, strict=True) if e is not None and m is not None]
        torch._foreach_mul_([e for e, _ in pairs], [m for _, m in pairs])
        return g, factor

    def _masks(self, g: Gradients, oracle: GradientOracle) -> tuple[Gradients, Tensor | None]:
        """Return M as zeros and ones for each of g, and ||g|| if an update has computed it."""
        age = self.memory.get("age", 0)
        self.memory["age"] = age + 1
        masks: Gradients = self.memory.get("mask") or [None] * len(g)
        begun = any(m is not None for m in masks)
        fresh = [d if m is None else None for d, m in zip(g, masks, strict=True)]
        late = any(d is not None for d in fresh)
        due = age % self.update_freq == 0
        length = None
        if self.mask == "fisher":
            if due or late:
                found = self._of_fisher(g if due or not begun else fresh, oracle)
                masks = [m if new is None else new for new, m in zip(found, masks, strict=True)]
        else:
            if begun and due and self.drop_rate:
                masks, length = self._updated(g, masks, age)
            if late:
                found = self._at_random(fresh, age)
                masks = [m if new is None else new for new, m in zip(found, masks, strict=True)]
        self.memory["mask"] = masks
        return masks, length

    def _of_fisher(self, g: Gradients, oracle: GradientOracle) -> Gradients:
        places = [i for i, d in enumerate(g) if d is not None]
        squares = mean_square(oracle, [self.parameters[i] for i in places], self.samples)
        like = [None if d is None else torch.zeros_like(d) for d in g]
        for i, f in zip(places, squares, strict=True):
            like[i] = like[i] if f is None else f
        information = flat([d for d in like if d is not None], like)
        live = len(information) - math.ceil(len(information) * self.sparsity)
        return _ones_at(information.topk(live).indices, like)

    def _at_random(self, g: Gradients, age: int) -> Gradients:
        random = self._random(g, age)
        live = len(random) - math.ceil(len(random) * self.sparsity)
        return _ones_at(random.topk(live).indices, g)

    def _updated(
        self, g: Gradients, masks: Gradients, age: int
    ) -> tuple[Gradients, Tensor | None]:
        pairs = [(d, m) for d, m in zip(g, masks, strict=True) if d is not None and m is not None]
        if not pairs:
            return masks, None
        like = [None if m is None else d for d, m in zip(g, masks, strict=True)]
        row = flat([m for _, m in pairs], like)
        live = len(row) - math.ceil(len(row) * self.sparsity)
        self.expect_progress("the drop rate")
        rate = self.drop_rate * (1 + math.cos(math.pi * self.progress)) / 2
        replaced = min(int(live * rate), len(row) - live)
        size = flat([d for d, _ in pairs], like)
        # This takes fewer launches than a norm by tensors, and an update has many.
        length = norm(size) if len(pairs) == sum(d is not None for d in g) else None
        # For a dead weight this gives inf or NaN, which topk treats as the largest value.
        size.abs_().div_(row)
        dropped = size.topk(replaced, largest=False).indices
        del size
        # The numbers of live weights are then below 0.
        grown = self._random(like, age).sub_(row).topk(replaced).indices
        # `row[dropped] = 0` would copy the number to the device and wait for it.
        row.index_fill_(0, dropped, 0).index_fill_(0, grown, 1)
        found = zip(shaped(row, like), masks, strict=True)
        # A tensor without a gradient in this step keeps its mask.
        return [m if new is None else new for new, m in found], length

    def _random(self, like: Gradients, age: int) -> Tensor:
        """Return a random number in [0, 1) for each element, the same for equal `age`."""
        dense = [d for d in like if d is not None]
        device = dense[0].device
        generator = self.generator(device, "mask", age)
        return torch.rand(sum(d.numel() for d in dense), generator=generator, device=device)


def _ones_at(chosen: Tensor, like: Gradients) -> Gradients:
    """Return zeros in the shapes of `like`, with ones at these indices of the flat elements."""
    row = torch.zeros(sum(d.numel() for d in like if d is not None), device=chosen.device)
    return shaped(row.index_fill_(0, chosen, 1), like)
