"""Views of complex tensors as real numbers, which the equations need."""

from __future__ import annotations

import torch
from torch import Tensor


def real(t: Tensor) -> Tensor:
    """Return a complex tensor viewed as pairs of real numbers, shape (..., 2), or the tensor."""
    return torch.view_as_real(t.resolve_conj()) if t.is_complex() else t


def unreal(t: Tensor, like: Tensor) -> Tensor:
    """Return a complex tensor if `like` is one, from a tensor like its view by `real`."""
    if not like.is_complex():
        return t
    *strides, last = t.stride()
    if last != 1 or t.storage_offset() % 2 or any(stride % 2 for stride in strides):
        t = t.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(t)
