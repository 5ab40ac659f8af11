"""A snapshot of a model's buffers, which can be restored."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import is_
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from samtune.optimizers.tensors import alike


class Buffers:
    """A copy of the modules' buffers: which tensor is in which place, and what it holds.

    A pass may write into a buffer, put another tensor in its place, resize it, or register a new
    one. Tensors that cannot be written are not copied, since no pass can have changed them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._places = [(module._buffers, dict(module._buffers)) for module in modules]
        found = {id(b): b for _, names in self._places for b in names.values() if b is not None}
        self._groups = alike(b for b in found.values() if _writable(b))
        self._names = [name for _, names in self._places for name in names]
        self._forms = _forms(self._groups)
        with torch.no_grad():
            self._contents = [[torch.empty_like(b) for b in group] for group in self._groups]
        self._copy()

    def retaken(self, modules: Sequence[nn.Module]) -> bool:
        """Take the snapshot again in its own memory, False if the buffers do not fit there."""
        now, names = [module._buffers for module in modules], self._names
        known, before = zip(*self._places, strict=True) if self._places else ((), ())
        fits = (
            # A scripted module has a wrapper in place of a dict.
            all(type(places) is dict for places in known)
            and len(now) == len(known)
            and all(map(is_, now, known))
            and [*chain.from_iterable(now)] == names
            and all(map(is_, _values(now), _values(before)))
        )
        if not fits or _forms(self._groups) != self._forms:
            return False
        self._copy()
        return True

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

    @torch.no_grad()
    def _copy(self) -> None:
        for contents, group in zip(self._contents, self._groups, strict=True):
            torch._foreach_copy_(contents, group)


# Snapshots of a model that no step uses any more: the next step takes its own in their memory.
_spare: WeakKeyDictionary[nn.Module, list[Buffers]] = WeakKeyDictionary()


def snapshot(model: nn.Module, modules: Sequence[nn.Module]) -> Buffers:
    """Return a snapshot of the modules, in the memory of an earlier one of `model` if it fits."""
    spare = _spare.get(model, [])
    while spare:
        found = spare.pop()
        if found.retaken(modules):
            return found
    return Buffers(modules)


def release(model: nn.Module, found: Buffers | None) -> None:
    """Give the memory of a snapshot to the next one of `model`."""
    if found is not None:
        _spare.setdefault(model, []).append(found)


def _values(places: Iterable[dict[str, Tensor | None]]) -> Iterable[Tensor | None]:
    return chain.from_iterable(map(dict.values, places))


def _forms(groups: list[list[Tensor]]) -> list[object]:
    return [form for group in groups for b in group for form in (b.shape, b.dtype)]


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
