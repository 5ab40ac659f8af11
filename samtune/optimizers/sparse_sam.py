"""Sparse SAM (Mi et al., NeurIPS 2022, arXiv 2210.05177)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.sam import SAM
from samtune.optimizers.tensors import Ascent, Gradients
from samtune.optimizers.variant import knob


@dataclass(eq=False, kw_only=True)
class SparseSAM(SAM):
    """SAM that perturbs a share of the weights, by a mask M that trains along (SSAM-D):

        eps = M * rho g / ||g||                 g = grad L_B(w); the norm is over all of g
        w  <- Base(w, grad L_B(w + eps))

    M has ceil(sparsity n) zeros, at random places at first. Every `update_freq` steps the live
    weights with the smallest |g| are dropped, drop_rate (1 + cos(pi t / T)) / 2 of them, and as
    many of the others, drawn at random, take their places: the defaults of the authors' code,
    which counts `update_freq` in epochs. Its other form, SSAM-F, needs gradients of single samples
    and is not here. Nothing is saved in compute. `sparsity` 0 is SAM.
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
    drop_rate: float = knob(
        0.5,
        low=0.0,
        high=1.0,
        safe=(0.0, 1.0),
        doc="share of the live weights replaced at the first update; by a cosine down to 0",
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

    def ascent(self, g: Gradients, oracle: GradientOracle) -> Ascent:
        masks = self._masks(g) if self.sparsity else None
        g, factor = super().ascent(g, oracle)
        if masks is not None:
            pairs = [
                (e, m) for e, m in zip(g, masks, strict=True) if e is not None and m is not None
            ]
            torch._foreach_mul_([e for e, _ in pairs], [m for _, m in pairs])
        return g, factor

    def _masks(self, g: Gradients) -> Gradients:
        """M as zeros and ones, a tensor for each of g; None, all ones, where g had none first."""
        age = self.state.get("age", 0)
        self.state["age"] = age + 1
        masks: Gradients | None = self.state.get("mask")
        if masks is None or (age % self.update_freq == 0 and self.drop_rate):
            masks = self.state["mask"] = self._updated(g, masks, age)
        return masks

    def _updated(self, g: Gradients, masks: Gradients | None, age: int) -> Gradients:
        like = [
            None if d is None or (masks is not None and masks[i] is None) else d
            for i, d in enumerate(g)
        ]
        dense = [d for d in like if d is not None]
        total = sum(d.numel() for d in dense)
        live = total - math.ceil(total * self.sparsity)
        device = dense[0].device
        random = torch.rand(total, generator=self.generator(device, "mask", age), device=device)
        if masks is None:
            chosen = random.topk(live).indices
        else:
            was = _flat([m for m, d in zip(masks, like, strict=True) if m is not None], device) > 0
            rate = self.drop_rate * (1 + math.cos(math.pi * self.progress)) / 2
            replaced = min(int(live * rate), total - live)
            size = _flat(dense, device).abs()
            kept = size.masked_fill(~was, -1).topk(live - replaced).indices
            grown = random.masked_fill(was, -1).topk(replaced).indices
            chosen = torch.cat([kept, grown])
        flat = torch.zeros(total, device=device)
        flat[chosen] = 1
        parts = iter(torch.split(flat, [d.numel() for d in dense]))
        return [None if d is None else next(parts).view_as(d).to(d) for d in like]


def _flat(tensors: list[Tensor], device: torch.device) -> Tensor:
    return torch.cat([t.flatten().to(device) for t in tensors])
