"""Models from elsewhere: `torchvision:resnet50`, and `my_package.my_module:my_model`."""

from __future__ import annotations

import difflib
import importlib
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from trainables.models.parts import ModelError

FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def is_own(name: str) -> bool:
    """Return whether a model's name is a reference to the user's own code."""
    return ":" in name and not name.startswith("torchvision:")


def find(reference: str) -> Callable[[tuple[int, int, int], int], nn.Module]:
    """The builder behind `torchvision:NAME` or `module:callable`. Raises ModelError."""
    if not FORM.fullmatch(reference):
        raise ModelError(
            f"{reference!r} names no model; write torchvision:resnet50, or "
            "my_package.my_module:my_model"
        )
    module, name = reference.split(":")
    found = _of_torchvision(name) if module == "torchvision" else _of_user(module, name)

    def build(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
        try:
            model = found(in_shape, classes)
            _try(model, in_shape, classes)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"cannot take images of {_size(in_shape)}: {type(error).__name__}: {_line(error)}"
            ) from error
        return model

    return build


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean x?`, or all that is known if nothing is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else f"there is: {', '.join(known) or 'none'}"


def _of_torchvision(name: str) -> Callable[[tuple[int, int, int], int], nn.Module]:
    try:
        models = importlib.import_module("torchvision.models")
    except Exception as error:
        # One that was built for another torch fails with RuntimeError or OSError as well.
        raise ModelError(
            f"torchvision:{name} needs torchvision, which cannot be imported here "
            f"({type(error).__name__}: {_line(error)}); install the one that belongs to torch "
            f"{torch.__version__}, or take samtune's own resnet50, wrn_28_10, vit_small, ..."
        ) from error
    known = models.list_models(module=models)
    if name not in known:
        raise ModelError(f"torchvision has no classifier {name!r}; {nearest(name, known)}")

    def build(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
        channels, height, width = in_shape
        if channels != 3:
            raise ModelError(f"torchvision's models take 3 channels, these images have {channels}")
        options: dict[str, Any] = {}
        if name in {"googlenet", "inception_v3"}:
            # Their second classifiers would make the outputs a tuple in training.
            options = {"aux_logits": False, "init_weights": True}
        elif name.startswith("vit_"):
            options = {"image_size": height}
        elif name.startswith("maxvit"):
            options = {"input_size": (height, width)}
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
        return model

    return build


def _of_user(module: str, name: str) -> Callable[[tuple[int, int, int], int], nn.Module]:
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            where = f"in {os.getcwd()} or on Python's path"
            raise ModelError(f"no module {error.name!r} {where}") from None
        raise ModelError(f"module {module} cannot be imported: {_line(error)}") from error
    except Exception as error:
        kind = type(error).__name__
        raise ModelError(f"module {module} cannot be imported: {kind}: {_line(error)}") from error
    if not callable(found):
        members = vars(importlib.import_module(module)).items()
        known = [word for word, value in members if callable(value) and word[0] != "_"]
        raise ModelError(f"module {module} has no model {name!r}; {nearest(name, known)}")
    builder: Callable[[tuple[int, int, int], int], nn.Module] = found
    return builder


@torch.no_grad()
def _try(model: object, in_shape: tuple[int, int, int], classes: int) -> None:
    """One black image through the model, in evaluation mode, which leaves BatchNorm as it was."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"returned a {type(model).__name__}, not a torch.nn.Module")
    training = {module: module.training for module in model.modules()}
    logits = model.eval()(torch.zeros(1, *in_shape))
    for module, was in training.items():
        module.training = was
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, classes):
        shape = getattr(logits, "shape", None)
        got = f"shape {tuple(shape)}" if shape is not None else f"a {type(logits).__name__}"
        raise ModelError(
            f"gives {got} for one image of {_size(in_shape)}; with {classes} classes it must give "
            f"a tensor of shape (1, {classes})"
        )


def _size(in_shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, in_shape))


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
