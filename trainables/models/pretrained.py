"""Weights from a file, for fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samtune.trial import warn
from trainables.models.parts import ModelError, first_line, some

# Where checkpoints of other programs keep the model's state.
_INSIDE = ("state_dict", "model", "model_state_dict")
# Wrappers of torch put these before each name.
_PREFIXES = ("module.", "_orig_mod.")


def load_weights(model: nn.Module, path: str) -> None:
    """Load the weights of a file into the model; a head for other classes stays as it was drawn.

    The file is one of `torch.save` with a state dict, or .safetensors. It is read without running
    any code that is in it.

    Raises:
        ModelError: The file cannot be read, or its weights are not those of this model.
    """
    state = _read(path)
    own = model.state_dict()
    head = _head(model)
    replaced = {
        name for name in head if name in state and state[name].shape[:1] != own[name].shape[:1]
    }
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    if missing or unknown:
        raise ModelError(
            f"weights {path} are of another model: {some(missing)} missing in the file, "
            f"{some(unknown)} only there"
        )
    for name, tensor in state.items():
        if name not in replaced and tensor.shape != own[name].shape:
            raise ModelError(
                f"weights {path} do not fit: {name} has shape {tuple(tensor.shape)} in the file "
                f"and {tuple(own[name].shape)} in the model"
            )
        if not torch.isfinite(tensor).all():
            raise ModelError(f"weights {path} are damaged: {name} is not finite")
    model.load_state_dict({**state, **{name: own[name] for name in replaced}})
    if replaced:
        name = next(iter(sorted(replaced)))
        warn(
            f"task.weights: the head {name.rpartition('.')[0] or name} is drawn anew, because it "
            f"has {own[name].shape[0]} outputs and {state[name].shape[0]} in the file"
        )


def _read(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise ModelError(f"weights: there is no file {path}")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        kind = type(error).__name__
        raise ModelError(
            f"weights {path} cannot be read as a state dict: {kind}: {first_line(error)}; save "
            "them by torch.save(model.state_dict(), path)"
        ) from error
    for word in _INSIDE:
        if isinstance(found, dict) and isinstance(found.get(word), dict):
            found = found[word]
    if not isinstance(found, dict) or not found:
        raise ModelError(f"weights {path} hold a {type(found).__name__}, not a state dict")
    state: dict[str, Tensor] = {}
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise ModelError(f"weights {path}: {name!r} is a {type(value).__name__}, not a tensor")
        for prefix in _PREFIXES:
            name = str(name).removeprefix(prefix)
        state[name] = value
    return state


def _head(model: nn.Module) -> list[str]:
    """Return the parameter names of the last linear or convolutional layer."""
    layers = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    inside = dict(model.named_modules())[layers[-1]] if layers else nn.Identity()
    prefix = f"{layers[-1]}." if layers and layers[-1] else ""
    return [prefix + name for name, _ in inside.named_parameters()]
