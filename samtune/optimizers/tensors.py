"""Operations on lists of tensors as one long vector, with one or two launches per list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Gradients = list[Tensor | None]
"""One entry per parameter, None where the loss does not depend on it."""

Factor = Tensor | float | tuple[float, Gradients]
"""A number, a 0-dim tensor, or a number times a 0-dim tensor for each tensor."""

Ascent = tuple[Gradients, Factor]
"""A perturbation eps = factor d, as the direction d and the factor."""

TAU = 1e-12
"""The number added to norms in denominators, so that a zero gradient gives 0 and not NaN."""


def alike(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Return the tensors in groups of one device and dtype, as foreach kernels need them."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    return list(groups.values())


def global_norm(tensors: Sequence[Tensor | None]) -> Tensor:
    """Return the L2 norm over all tensors together, shape (), in float32 or wider.

    The host does not wait for the device.
    """
    groups = alike(part for t in tensors if t is not None for part in parts(t))
    if not groups:
        return torch.zeros(())
    # A norm in half precision would have three digits and overflow at 65504.
    norms = [
        norm
        for group in groups
        for norm in torch._foreach_norm(group, 2, dtype=_at_least_float32(group[0].dtype))
    ]
    if len(groups) > 1:
        norms = [n.to(norms[0].device) for n in norms]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def norms_with_part(whole: Gradients, part: Gradients) -> tuple[Tensor, Tensor]:
    """Return the global norms of `whole` and of `part`, a list of some of the whole's tensors.

    Costs one launch more than one norm.
    """
    pieces = {id(t): parts(t) for t in whole if t is not None}
    norms: dict[int, Tensor] = {}
    for group in alike(p for own in pieces.values() for p in own):
        dtype = _at_least_float32(group[0].dtype)
        norms |= zip(map(id, group), torch._foreach_norm(group, 2, dtype=dtype), strict=True)
    if not norms:
        return torch.zeros(()), torch.zeros(())
    home = next(iter(norms.values())).device
    of_part = [norms[id(p)] for t in part if t is not None for p in pieces[id(t)]]
    both = torch.stack([n.to(home) for n in (*norms.values(), *of_part)])
    first, second = torch.split(both, [len(norms), len(of_part)])
    return torch.linalg.vector_norm(first), torch.linalg.vector_norm(second)


def weighted_mean(values: Sequence[Tensor | None], shares: Sequence[float]) -> Tensor | None:
    """Return the mean weighted by shares, which add up to 1; None unless every value is there."""
    known = [v * share for v, share in zip(values, shares, strict=True) if v is not None]
    return torch.stack(known).sum() if len(known) == len(shares) else None


# Not in half precision, where addcmul would round the factor to three digits.
_FUSED_ON_CPU = (torch.float32, torch.float64)


def _fused(tensors: Iterable[Tensor]) -> bool:
    return all(t.is_cpu and t.dtype in _FUSED_ON_CPU for t in tensors)


def along(d: Gradients, length: float | Tensor) -> tuple[Gradients, Tensor]:
    """Return length d / ||d|| as direction and factor; it is 0 where d is zero."""
    return d, over(length, global_norm(d))


def over(length: float | Tensor, norm: Tensor) -> Tensor:
    """Return length / (norm + TAU)."""
    if isinstance(length, Tensor):
        return length.to(norm) / (norm + TAU)
    # A Python number would cost a launch of its own.
    return torch.tensor(length, dtype=norm.dtype, device="cpu") / (norm + TAU)


def moved(w: list[Tensor], d: list[Tensor], factor: Factor, *, keep: bool) -> list[Tensor]:
    """Return w + factor d, in new tensors or in those of d.

    Args:
        w: the weights.
        d: the direction, one tensor per weight.
        factor: common to all tensors, or one per tensor.
        keep: leave d as it is. A factor per tensor always leaves it.
    """
    # In the layout of w: a compiled model would be compiled anew for weights in another one.
    pairs = zip(d, w, strict=True)
    d = [laid_out(t, x) for t, x in pairs]
    if isinstance(factor, tuple):
        return _moved_each(w, d, *factor)
    if _fused(d):
        # addcmul goes through memory once. Foreach kernels do not, and are loops on the CPU.
        factor = torch.as_tensor(factor, dtype=torch.float64)
        # Without an `out` the float64 factor would widen a float32 tensor without dimensions.
        outs = [torch.empty_like(x) for x in w] if keep else d
        return [torch.addcmul(x, y, factor, out=o) for x, y, o in zip(w, d, outs, strict=True)]
    if isinstance(factor, Tensor) or factor != 1 or keep:
        d = [t for t in (scaled if keep else scale_)([*d], factor) if t is not None]
    torch._foreach_add_(d, w)
    return d


def _moved_each(w: list[Tensor], d: list[Tensor], number: float, each: Gradients) -> list[Tensor]:
    shares = [s for s in each if s is not None]
    if _fused(d) or len(alike([*w, *d, *shares])) > 1:
        triples = zip(w, d, shares, strict=True)
        moves = ((x, y.to(s.dtype), s.to(y.device)) for x, y, s in triples)
        return [torch.addcmul(x.to(s.dtype), y, s, value=number).to(x.dtype) for x, y, s in moves]
    # A list of 0-dim factors would cost one launch per tensor.
    sizes = [t.numel() for t in d]
    spread = torch.cat([s.expand(n) for s, n in zip(shares, sizes, strict=True)])
    factors = [f for f in shaped(spread, d) if f is not None]
    return list(torch._foreach_addcmul(w, d, factors, value=number))


PART = 2**18
"""Elements that are summed in float32 at once on the CPU.

torch uses a few running sums there: the norm of 36 M elements is wrong in the third digit."""


def parts(t: Tensor) -> Sequence[Tensor]:
    """Return the tensor, on the CPU in pieces of about PART elements at most.

    The pieces follow the order in memory, since a sum over rows of a matrix takes three times as
    long.
    """
    if not t.is_cpu or t.numel() <= PART:
        return (t,)
    if _dense(t):
        row = t.view(-1) if t.is_contiguous() else _row(t, t)
        return row.chunk(-(-t.numel() // PART))
    longest = max(range(t.ndim), key=lambda i: t.shape[i])
    return torch.split(t, max(1, t.shape[longest] * PART // t.numel()), longest)


def scale_(tensors: Gradients, factor: Tensor | float) -> Gradients:
    """Multiply all tensors by a number or a 0-dim tensor, in place, and return them."""
    for group in alike(t for t in tensors if t is not None):
        torch._foreach_mul_(group, _beside(group, factor))
    return tensors


def scaled(tensors: Gradients, factor: Tensor | float) -> Gradients:
    """Return the tensors times a number or a 0-dim tensor, as new tensors."""
    products: dict[int, Tensor] = {}
    for group in alike(t for t in tensors if t is not None):
        found = torch._foreach_mul(group, _beside(group, factor))
        # A factor in float32 widens a bfloat16 tensor without dimensions.
        products |= {id(t): p.to(t.dtype) for t, p in zip(group, found, strict=True)}
    return [None if t is None else products[id(t)] for t in tensors]


def plus(a: Gradients, b: Gradients, factor: Tensor) -> Gradients:
    """Return a + factor b; a None counts as zeros.

    The tensors are new, except those of `a` where b is None.
    """
    sums = scaled(b, factor)
    pairs = [(x, y) for x, y in zip(sums, a, strict=True) if x is not None and y is not None]
    if pairs:
        torch._foreach_add_([x for x, _ in pairs], [y for _, y in pairs])
    return [y if x is None else x for x, y in zip(sums, a, strict=True)]


def accumulate_(total: Gradients, terms: Gradients, weight: float) -> None:
    """Add weight * terms to the total in place; a None counts as zeros.

    The total may keep and change tensors of the terms.
    """
    fresh = [i for i, t in enumerate(total) if t is None and terms[i] is not None]
    both = [(t, d) for t, d in zip(total, terms, strict=True) if t is not None and d is not None]
    for group in alike(d for i in fresh if (d := terms[i]) is not None):
        torch._foreach_mul_(group, weight)
    for i in fresh:
        total[i] = terms[i]
    if both:
        torch._foreach_add_([t for t, _ in both], [d for _, d in both], alpha=weight)


def flat(tensors: Iterable[Tensor], like: Iterable[Tensor | None]) -> Tensor:
    """Return all elements as one new vector in float32 or wider, on the first tensor's device.

    Those of a tensor are in the order in which its counterpart in `like` has them in memory.
    """
    counterparts = (t for t in like if t is not None)
    rows = [_row(t, c) for t, c in zip(tensors, counterparts, strict=True)]
    vector = torch.cat([row.to(rows[0].device) for row in rows])
    return vector.to(_at_least_float32(vector.dtype))


def shaped(vector: Tensor, like: Iterable[Tensor | None]) -> Gradients:
    """Return a vector of `flat` as tensors with the shapes, dtypes, devices and layouts of `like`.

    The tensors are views of the vector where no copy is needed.
    """
    like = list(like)
    parts = iter(torch.split(vector, [t.numel() for t in like if t is not None]))
    return [None if t is None else _from_row(next(parts), t) for t in like]


def _row(t: Tensor, like: Tensor) -> Tensor:
    if not _dense(like):
        return t.reshape(-1)
    # The order in memory: logical order would copy a gradient in channels_last.
    t = _laid_out(t, like)
    return t.as_strided((t.numel(),), (1,), t.storage_offset())


def _from_row(row: Tensor, like: Tensor) -> Tensor:
    if not _dense(like):
        return _laid_out(row.view_as(like).to(like), like)
    return row.as_strided(like.shape, like.stride(), row.storage_offset()).to(like)


def _dense(t: Tensor) -> bool:
    """Return whether the elements lie side by side in memory, in one of torch's orders."""
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(t.ndim)
    return t.is_contiguous() or (
        channels_last is not None and t.is_contiguous(memory_format=channels_last)
    )


def laid_out(t: Tensor, like: Tensor) -> Tensor:
    """Return t with its elements in the order in memory that those of `like` have."""
    return t if t.stride() == like.stride() else _laid_out(t, like)


def _laid_out(t: Tensor, like: Tensor) -> Tensor:
    # torch's fused optimizers use the order in memory. With a weight in channels_last and a
    # contiguous direction they would add the wrong elements.
    strides = zip(t.shape, t.stride(), like.stride(), strict=True)
    if all(own == wanted for size, own, wanted in strides if size > 1):
        # A foreach kernel also compares the strides of dimensions of size 1.
        return t.as_strided(t.shape, like.stride(), t.storage_offset())
    return torch.empty_like(like, dtype=t.dtype, device=t.device).copy_(t)


def _beside(group: list[Tensor], factor: Tensor | float) -> Tensor | float:
    """Return the factor on the device and in the dtype that a foreach kernel needs."""
    if not isinstance(factor, Tensor):
        return factor
    return factor.to(group[0].device, _at_least_float32(group[0].dtype))


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
