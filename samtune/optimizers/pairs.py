"""Gradients of one batch, two at a time or squared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.reals import real
from samtune.optimizers.tensors import Gradients, alike, global_norm, parts


def mean_square(
    oracle: GradientOracle, parameters: Sequence[Tensor], samples: int | None = None
) -> Gradients:
    """Return the oracle's mean square of single samples' gradients, in real numbers."""
    return [None if f is None else real(f) for f in oracle.mean_square(parameters, samples)]


def paired(g: Gradients, h: Gradients) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors of g and h where h has one; a missing one of g counts as zeros.

    They are the tensors of the lists themselves, so that h may be changed through them.
    """
    pairs = [
        (torch.zeros_like(b) if a is None else a, b)
        for a, b in zip(g, h, strict=True)
        if b is not None
    ]
    return [a for a, _ in pairs], [b for _, b in pairs]


def both_norms(g: list[Tensor], v: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the norms of two equally long lists, 0-dim each, in as few launches as one."""
    if len(alike([*g, *v])) > 1 or g[0].is_cpu:
        return global_norm(list(g)), global_norm(list(v))
    dtype = torch.promote_types(g[0].dtype, torch.float32)
    norms = torch.stack(torch._foreach_norm([*g, *v], 2, dtype=dtype))
    first, second = torch.linalg.vector_norm(norms.view(2, -1), dim=1).unbind()
    return first, second


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return <a, b> of two vectors."""
    pairs = zip(parts(a), parts(b), strict=True)
    products = [torch.dot(x, y) for x, y in pairs]
    return products[0] if len(products) == 1 else torch.stack(products).sum()


def norm(v: Tensor) -> Tensor:
    """Return ||v|| of one vector, with one launch where `global_norm` takes several."""
    norms = [torch.linalg.vector_norm(part) for part in parts(v)]
    total: Tensor = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    return total


def without_(g: Tensor, h: Tensor) -> Tensor:
    """Reduce the vector g, in place, to its part orthogonal to h: exactly 0 where g is h."""
    square = dot(h, h).clamp_min(torch.finfo(h.dtype).tiny)
    return g.addcmul_(h, dot(g, h) / square, value=-1)
