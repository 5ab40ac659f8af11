"""Random numbers that the later passes of a step draw again."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Generator:
    """A random generator, by the functions that read and write its state.

    `moved` compares two states, for generators that are slow to write and seldom used.
    """

    read: Callable[[], Any]
    write: Callable[[Any], object]
    moved: Callable[[Any, Any], bool] = lambda before, after: True


def generators(modules: Iterable[nn.Module], devices: Iterable[torch.device]) -> list[Generator]:
    """Return the generators that a pass may draw from.

    These are the global ones of torch, on the CPU and on the devices, of Python and of NumPy, and
    those that a module has as an attribute.
    """
    found = [Generator(torch.get_rng_state, torch.set_rng_state)]
    found += [_of_device(device) for device in devices if device.type not in {"cpu", "meta"}]
    found.append(Generator(random.getstate, random.setstate, lambda a, b: bool(a != b)))
    # A library that is not imported draws nothing.
    numpy = sys.modules.get("numpy")
    kinds = {torch.Generator, random.Random}
    if numpy is not None:
        read = partial(numpy.random.get_state, legacy=False)
        found.append(Generator(read, numpy.random.set_state, _arrays_moved))
        kinds |= {numpy.random.Generator, numpy.random.RandomState}
    held = {
        id(value): value
        for module in modules
        # torch's own layers, most of a model, have no generator.
        if not type(module).__module__.startswith("torch.nn.")
        for value in vars(module).values()
        if type(value) in kinds
    }
    return found + [_held(value) for value in held.values()]


class Replay:
    """The draws of a step's clean pass, which begins now."""

    def __init__(self, found: list[Generator]) -> None:
        self._used = [(generator, generator.read()) for generator in found]

    def end(self) -> None:
        """End the clean pass: forget the generators that it did not use."""
        self._used = [(g, start) for g, start in self._used if g.moved(start, g.read())]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same numbers inside the block, and leave the generators as they were."""
        found = [(generator, generator.read()) for generator, _ in self._used]
        try:
            for generator, start in self._used:
                generator.write(start)
            yield
        finally:
            for generator, state in found:
                generator.write(state)


def _of_device(device: torch.device) -> Generator:
    module = torch.get_device_module(device)
    # Metal has one generator, and takes no index.
    which = () if device.type == "mps" else (device,)
    return Generator(
        partial(module.get_rng_state, *which), lambda state: module.set_rng_state(state, *which)
    )


def _held(value: Any) -> Generator:
    if isinstance(value, torch.Generator):
        return Generator(value.get_state, value.set_state)
    if isinstance(value, random.Random):
        return Generator(value.getstate, value.setstate)
    if hasattr(value, "bit_generator"):
        bits = value.bit_generator
        return Generator(lambda: bits.state, lambda state: setattr(bits, "state", state))
    return Generator(value.get_state, value.set_state)


def _arrays_moved(before: Any, after: Any) -> bool:
    # `==` does not compare states that contain arrays.
    if isinstance(before, Mapping):
        return any(_arrays_moved(before[name], after[name]) for name in before)
    if isinstance(before, tuple | list):
        return any(map(_arrays_moved, before, after))
    if hasattr(before, "tobytes"):
        return bool(before.tobytes() != after.tobytes())
    return bool(before != after)
