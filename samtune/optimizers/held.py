"""A step in the form that a CUDA graph needs: its numbers in tensors, its memory in fixed places.

A graph repeats the operations of one step, with the same addresses and the same numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from samtune.optimizers.tensors import alike
from samtune.optimizers.two_pass import Scheduled
from samtune.optimizers.variant import Variant

Form = tuple[Hashable, ...]
"""The structure of a memory, without its values."""


class Held:
    """Holds the learning rates, the radius, the generator and the memory of a variant in place.

    Before each step `fill` puts the current numbers into their tensors and seeds the generator.
    Inside `numbers` the variant uses these tensors. After the step `settle` copies the variant's
    memory back into the tensors that held it before, in the same graph.

    Args:
        optimizer: the variant; only its steps inside `numbers` are affected. All its parameters
            are on one device.
    """

    def __init__(self, optimizer: Variant) -> None:
        self.optimizer = optimizer
        self._device = device = optimizer.weights[0].device
        # The fused kernels of CUDA take float32 only.
        exact = torch.float32 if device.type == "cuda" else torch.float64
        groups = optimizer.base.param_groups
        self._lrs = [torch.zeros((), dtype=exact, device=device) for _ in groups]
        widths = [torch.promote_types(w.dtype, torch.float32) for w in optimizer.weights]
        widest = torch.float64 if torch.float64 in widths else torch.float32
        self._radius = torch.zeros((), dtype=widest, device=device)
        self._places: dict[tuple[Hashable, ...], Tensor] = {}

    @property
    def generator(self) -> torch.Generator:
        """The variant's generator, which is the same one in every step."""
        with self.numbers():
            return self.optimizer.generator(self._device)

    def fill(self) -> None:
        """Take the numbers of the next step. The host does not wait for the device."""
        optimizer = self.optimizer
        for held, group in zip(self._lrs, optimizer.base.param_groups, strict=True):
            held.fill_(float(group["lr"]))
        if isinstance(optimizer, Scheduled):
            self._radius.fill_(max(optimizer.radii))
        draw = optimizer.memory.get("draws", 0)
        optimizer.memory["draws"] = draw + 1
        optimizer.generator(self._device, "held", draw)

    @contextmanager
    def numbers(self) -> Iterator[None]:
        """Let the variant step by the held numbers inside the block."""
        optimizer, groups = self.optimizer, self.optimizer.base.param_groups
        before = [dict(group) for group in groups]
        for held, group in zip(self._lrs, groups, strict=True):
            group["lr"] = held
            if "capturable" in group:
                group["capturable"] = True
        if isinstance(optimizer, Scheduled):
            optimizer.held_radius = self._radius
        optimizer.seeded = True
        try:
            yield
        finally:
            optimizer.seeded = False
            if isinstance(optimizer, Scheduled):
                optimizer.held_radius = None
            for group, was in zip(groups, before, strict=True):
                group.update(was)

    def settle(self) -> None:
        """Copy the tensors of the memory into their places, and put those into the memory."""
        copies: list[tuple[Tensor, Tensor]] = []
        known = {id(t) for t in self._places.values()}

        def settled(tree: Any, place: tuple[Hashable, ...]) -> Any:
            if isinstance(tree, dict):
                return {word: settled(value, (*place, word)) for word, value in tree.items()}
            if isinstance(tree, list):
                return [settled(value, (*place, n)) for n, value in enumerate(tree)]
            if not isinstance(tree, Tensor):
                return tree
            own = self._places.get(place)
            if own is None or own.shape != tree.shape or own.dtype != tree.dtype:
                own = self._places[place] = tree.clone() if id(tree) in known else tree
            elif own is not tree:
                copies.append((own, tree.clone() if id(tree) in known else tree))
            return own

        self.optimizer.memory = settled(self.optimizer.memory, ())
        for group in alike(own for own, _ in copies):
            new = {id(own): tree for own, tree in copies}
            with torch.no_grad():
                torch._foreach_copy_(group, [new[id(own)] for own in group])


def form(memory: Any) -> Form:
    """Return the form of a variant's memory: two of one form differ only in values."""
    if isinstance(memory, dict):
        return tuple((word, form(value)) for word, value in memory.items())
    if isinstance(memory, list):
        return tuple(form(value) for value in memory)
    if isinstance(memory, Tensor):
        return memory.dtype, memory.shape
    return (type(memory).__name__,)


def moved_on(before: Any, after: Any, now: Any) -> Any:
    """Return the memory after a step that begins with `now`.

    Args:
        before: the memory before a step of the same kind.
        after: the memory after that step; its tensors are those of the new memory.
        now: a memory of the same form as `before`. Its counts grow as they did there.
    """
    if isinstance(after, dict):
        old, new = (tree if isinstance(tree, dict) else {} for tree in (before, now))
        return {w: moved_on(old.get(w), value, new.get(w)) for w, value in after.items()}
    if isinstance(after, list) and any(isinstance(value, dict) for value in after):
        rows = zip(before or [None] * len(after), after, now or [None] * len(after), strict=True)
        return [moved_on(*row) for row in rows]
    counts = type(before) is int and type(after) is int
    return now + after - before if counts else after
