"""What a pass leaves behind besides gradients, at one moment, to go back to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samtune.optimizers.tensors import alike


class Buffers:
    """A model's buffers, objects and contents: some modules assign a new tensor."""

    def __init__(self, model: nn.Module) -> None:
        self._places = [
            (module._buffers, name, buffer)
            for module in model.modules()
            for name, buffer in module._buffers.items()
        ]
        self._groups = alike({id(b): b for _, _, b in self._places if b is not None}.values())
        self._contents = [[torch.empty_like(b) for b in group] for group in self._groups]
        for contents, group in zip(self._contents, self._groups, strict=True):
            torch._foreach_copy_(contents, group)

    @torch.no_grad()
    def restore(self) -> None:
        for owner, name, buffer in self._places:
            owner[name] = buffer
        for contents, group in zip(self._contents, self._groups, strict=True):
            torch._foreach_copy_(group, contents)


class RandomState:
    """The state of torch's global generators, of the CPU and of one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Metal has one generator, and takes no index.
        self._which = () if device.type == "mps" else (device,)
        self._cpu = torch.get_rng_state()
        self._other: Tensor | None = None
        if device.type != "cpu":
            self._other = torch.get_device_module(device).get_rng_state(*self._which)

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._other is not None:
            torch.get_device_module(self._device).set_rng_state(self._other, *self._which)
