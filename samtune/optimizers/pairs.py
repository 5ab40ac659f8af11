"""What variants do with two gradients of one batch."""

from __future__ import annotations

import torch
from torch import Tensor

from samtune.optimizers.tensors import Gradients, alike, global_norm, parts


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
    if len(alike([*g, *v])) > 1 or g[0].is_cpu:
        return global_norm(list(g)), global_norm(list(v))
    dtype = torch.promote_types(g[0].dtype, torch.float32)
    norms = torch.stack(torch._foreach_norm([*g, *v], 2, dtype=dtype))
    first, second = torch.linalg.vector_norm(norms.view(2, -1), dim=1).unbind()
    return first, second


def dot(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of two vectors."""
    pairs = zip(parts(a), parts(b), strict=True)
    products = [torch.dot(x, y) for x, y in pairs]
    return products[0] if len(products) == 1 else torch.stack(products).sum()


def norm(v: Tensor) -> Tensor:
    """||v|| of one vector, at a launch where `global_norm` takes several."""
    norms = [torch.linalg.vector_norm(part) for part in parts(v)]
    total: Tensor = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    return total


def without_(g: Tensor, h: Tensor) -> Tensor:
    """Leaves of the vector g, in place, its part orthogonal to h: exactly 0 where g is h."""
    square = dot(h, h).clamp_min(torch.finfo(h.dtype).tiny)
    return g.addcmul_(h, dot(g, h) / square, value=-1)
