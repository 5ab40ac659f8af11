"""Models by reference: of another library, or the user's own `my_package.my_module:my_model`."""

from __future__ import annotations

import re

from torch import nn

from samtune.importing import ModuleImportError, import_module
from samtune.messages import nearest
from trainables.models.check import check_outputs
from trainables.models.parts import Builder, ModelError, first_line
from trainables.models.zoo import timm_model, torchvision_model

_ZOOS = {"torchvision": torchvision_model, "timm": timm_model}
FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def is_own(name: str) -> bool:
    """Return True if a model's name is a reference to the user's own code."""
    return ":" in name and name.partition(":")[0] not in _ZOOS


def find(reference: str) -> Builder:
    """Return the builder behind `torchvision:NAME`, `timm:NAME` or `module:callable`.

    The model that it builds is tried on a few images, in evaluation and in training.

    Raises:
        ModelError: There is no such model.
    """
    if not FORM.fullmatch(reference):
        raise ModelError(
            f"{reference!r} names no model; write torchvision:resnet50, timm:resnet50, or "
            "my_package.my_module:my_model"
        )
    module, name = reference.split(":")
    found = _ZOOS[module](name) if module in _ZOOS else _of_user(module, name)

    def build(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
        try:
            model = found(in_shape, classes)
            check_outputs(model, in_shape, classes)
        except ModelError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            raise ModelError(f"cannot take images of {_size(in_shape)}: {why}") from error
        return model

    return build


def _of_user(module: str, name: str) -> Builder:
    try:
        imported = import_module(module)
    except ModuleImportError as error:
        raise ModelError(str(error)) from error
    found = getattr(imported, name, None)
    if not callable(found):
        members = vars(imported).items()
        known = [word for word, value in members if callable(value) and word[0] != "_"]
        raise ModelError(
            f"module {module} has no model {name!r}; {nearest(name, known, 'there is')}"
        )
    builder: Builder = found
    return builder


def _size(in_shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, in_shape))
