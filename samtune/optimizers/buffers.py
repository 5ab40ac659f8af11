"""A snapshot of a model's buffers, which can be restored."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from samtune.optimizers.tensors import alike


class Buffers:
    """A copy of the modules' buffers: which tensor is in which place, and what it holds.

    A pass may write into a buffer, put another tensor in its place, resize it, or register a new
    one. Tensors that cannot be written are not copied, since no pass can have changed them.
    """

    @torch.no_grad()
    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._places = [(module._buffers, dict(module._buffers)) for module in modules]
        found = {id(b): b for _, names in self._places for b in names.values() if b is not None}
        self._groups = alike(b for b in found.values() if _writable(b))
        self._contents = [[torch.empty_like(b) for b in group] for group in self._groups]
        for contents, group in zip(self._contents, self._groups, strict=True):
            torch._foreach_copy_(contents, group)

    @torch.no_grad()
    def restore(self) -> None:
        """Put every tensor back in its place and its contents back into it.

        Warn, and do not raise, where that fails: the caller may be handling an exception.
        """
        for places, before in self._places:
            if len(places) > len(before):
                for name in set(places.keys()) - before.keys():
                    del places[name]
            for name, buffer in before.items():
                if places[name] is not buffer:
                    places[name] = buffer
        for group, contents in zip(self._groups, self._contents, strict=True):
            pairs = list(zip(group, contents, strict=True))
            same = all(b.shape == c.shape and b.dtype == c.dtype for b, c in pairs)
            try:
                if not same:
                    raise RuntimeError("a buffer has another shape or dtype than before")
                torch._foreach_copy_(group, contents)
            except RuntimeError:
                for buffer, content in pairs:
                    _replace(buffer, content)


def _writable(b: Tensor) -> bool:
    if b.is_inference() or is_lazy(b):
        return False
    if b.layout != torch.strided or 0 not in b.stride():
        return True
    # Several elements of an expanded tensor are one place in memory.
    return all(stride or size == 1 for size, stride in zip(b.shape, b.stride(), strict=True))


def _replace(buffer: Tensor, content: Tensor) -> None:
    try:
        buffer.data = content.clone()
    except RuntimeError as error:
        warnings.warn(
            f"a buffer could not be put back to its earlier value: {error}", stacklevel=4
        )
