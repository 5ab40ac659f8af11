"""Models by name. A builder takes in_shape (C, H, W) and the number of classes."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import torch
from torch import nn

from trainables.models.small_cnn import small_cnn

Builder = Callable[[tuple[int, int, int], int], nn.Module]

MODELS: dict[str, Builder] = {"small_cnn": small_cnn}


class ModelError(ValueError):
    """No model of that name."""


def build(name: str, in_shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
    """The named model on the CPU, its weights drawn from `seed` alone; global RNG untouched.

    Raises ModelError for an unknown name.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there is: {', '.join(MODELS)}"
        raise ModelError(f"unknown model {name!r}; {hint}")
    # Torch's initialisers draw from the CPU's global generator; torch.manual_seed would also
    # reseed every accelerator, which fork_rng(devices=[]) does not restore.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return MODELS[name](in_shape, classes)
