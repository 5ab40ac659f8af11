"""What variants do with two gradients of one batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from samtune.optimizers.tensors import Gradients, alike, global_norm, scaled
from samtune.optimizers.variant import TAU


def along(g: Gradients, length: float) -> Gradients:
    """length g / ||g||, as new tensors; zeros where g is zero."""
    return scaled(g, length / (global_norm(g) + TAU))


def paired(g: Gradients, h: Gradients) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors of g and h where h has one; there a missing one of g counts as zeros.

    They are the tensors of the lists themselves, so that h may be changed through them.
    """
    pairs = [
        (torch.zeros_like(b) if a is None else a, b)
        for a, b in zip(g, h, strict=True)
        if b is not None
    ]
    return [a for a, _ in pairs], [b for _, b in pairs]


def both_norms(g: list[Tensor], v: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The global norms of two lists of equal length, 0-dim each, at the launches of one."""
    if len(alike([*g, *v])) > 1:
        return global_norm(list(g)), global_norm(list(v))
    dtype = torch.promote_types(g[0].dtype, torch.float32)
    norms = torch.stack(torch._foreach_norm([*g, *v], 2, dtype=dtype))
    first, second = torch.linalg.vector_norm(norms.view(2, -1), dim=1).unbind()
    return first, second


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All elements as one new vector, at least float32, on the device of the first tensor."""
    vector = torch.cat([t.reshape(-1).to(tensors[0].device) for t in tensors])
    return vector.to(torch.promote_types(vector.dtype, torch.float32))


def shaped(vector: Tensor, like: Iterable[Tensor | None]) -> Gradients:
    """The vector as tensors again, in the shapes, dtypes and places of those of `like`."""
    like = list(like)
    parts = iter(torch.split(vector, [t.numel() for t in like if t is not None]))
    return [None if t is None else _laid_out(next(parts).view_as(t).to(t), t) for t in like]


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    # torch's fused optimizers walk through memory: of a channels_last weight and a contiguous
    # direction they would add elements that do not belong together.
    if tensor.stride() == like.stride():
        return tensor
    return torch.empty_like(like).copy_(tensor)


def without_(g: Tensor, h: Tensor) -> Tensor:
    """Leaves of the vector g, in place, its part orthogonal to h: exactly 0 where g is h."""
    square = torch.dot(h, h).clamp_min(torch.finfo(h.dtype).tiny)
    return g.addcmul_(h, torch.dot(g, h) / square, value=-1)
