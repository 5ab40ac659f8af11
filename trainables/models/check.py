"""A model that is not samtune's own, tried on a few images before a sweep relies on it."""

from __future__ import annotations

import torch
from torch import nn

from samtune.optimizers.buffers import Buffers
from samtune.optimizers.randomness import Replay, generators
from trainables.models.parts import ModelError


def check_outputs(model: object, in_shape: tuple[int, int, int], classes: int) -> None:
    """Run black images through the model in both modes, and leave it as it was.

    Raises:
        ModelError: it is no module, or does not return class scores of shape (images, classes).
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"returned a {type(model).__name__}, not a torch.nn.Module")
    modes = {module: module.training for module in model.modules()}
    try:
        # BatchNorm needs two images in training.
        for training, images in ((False, 1), (True, 2)):
            outputs = tried(model.train(training), in_shape, images)
            if not isinstance(outputs, torch.Tensor) or outputs.shape != (images, classes):
                mode = "two images of {} in training" if training else "one image of {}"
                raise ModelError(
                    f"gives {_form(outputs)} for {mode.format(' x '.join(map(str, in_shape)))}; "
                    f"with {classes} classes it must give a tensor of shape ({images}, {classes})"
                )
    finally:
        for module, training in modes.items():
            module.training = training
    if not any(p.requires_grad for p in model.parameters()):
        raise ModelError("has no parameter that requires a gradient, so there is nothing to train")


def check_single_images(model: nn.Module, in_shape: tuple[int, int, int]) -> None:
    """Raise ModelError where the model cannot train on batches of one image."""
    try:
        tried(model.train(), in_shape, 1)
    except ValueError as error:
        raise ModelError(
            f"task.batch_size is 1, and the model cannot train on a single image ({error}); "
            "set task.batch_size to 2 or more"
        ) from error


def tried(model: nn.Module, in_shape: tuple[int, int, int], images: int) -> object:
    """Return the outputs for black images; buffers and random generators stay as they are."""
    modules = [*model.modules()]
    buffers = Buffers(modules)
    try:
        with torch.no_grad(), Replay(generators(modules, ())).again():
            outputs: object = model(torch.zeros(images, *in_shape))
            return outputs
    finally:
        buffers.restore()


def _form(outputs: object) -> str:
    shape = getattr(outputs, "shape", None)
    return f"a {type(outputs).__name__}" if shape is None else f"shape {tuple(shape)}"
