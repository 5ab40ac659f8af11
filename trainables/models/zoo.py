"""Models of other libraries: `torchvision:resnet50` and `timm:convnext_tiny`, without weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from samtune.messages import nearest
from trainables.models.parts import Builder, ModelError, first_line


def torchvision_model(name: str) -> Builder:
    """Return the builder of a torchvision classifier.

    Raises:
        ModelError: torchvision cannot be imported, or has no such classifier.
    """
    models = _imported("torchvision.models", f"torchvision:{name}", "torchvision")
    known = models.list_models(module=models)
    if name not in known:
        raise ModelError(
            f"torchvision has no classifier {name!r}; {nearest(name, known, 'there is')}"
        )

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


def timm_model(name: str) -> Builder:
    """Return the builder of a timm model; nothing is downloaded.

    Raises:
        ModelError: timm cannot be imported, or has no such model.
    """
    timm = _imported("timm", f"timm:{name}", "timm: pip install 'samtune[timm]'")
    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}; {_near_in_timm(name, timm.list_models)}")

    def build(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
        channels, *size = in_shape
        fixed = getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False)
        options: dict[str, Any] = {"img_size": tuple(size)} if fixed else {}
        model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=classes, in_chans=channels, **options
        )
        return model

    return build


def _near_in_timm(name: str, list_models: Callable[[], list[str]]) -> str:
    hint = nearest(name, list_models(), "there is")
    return hint if hint.startswith("did") else "`timm.list_models()` shows them"


def _imported(module: str, name: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:
        # One that was built for another torch fails with RuntimeError or OSError as well.
        raise ModelError(
            f"{name} needs {module.partition('.')[0]}, which cannot be imported here "
            f"({type(error).__name__}: {first_line(error)}); install {what} for torch "
            f"{torch.__version__}, or take samtune's own resnet50, wrn_28_10, vit_small, ..."
        ) from error
