"""Models by name. A builder takes the shape of an image (C, H, W) and the number of classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from samtune.messages import nearest
from samtune.trial import Value
from trainables.models import external, freezing
from trainables.models.densenet import densenet
from trainables.models.parts import Builder, ModelError
from trainables.models.pretrained import load_weights
from trainables.models.pyramidnet import pyramidnet
from trainables.models.resnet import Basic, Bottleneck, resnet
from trainables.models.small_cnn import small_cnn
from trainables.models.vit import vit
from trainables.models.wide_resnet import wide_resnet

__all__ = ["MODELS", "Builder", "ModelError", "build", "build_for", "check_name"]

_pyramidnet_110 = partial(pyramidnet, depth=110, alpha=270, bottleneck=False)
_pyramidnet_272 = partial(pyramidnet, depth=272, alpha=200, bottleneck=True)

MODELS: dict[str, Builder] = {
    "small_cnn": small_cnn,
    "resnet18": partial(resnet, block=Basic, depths=(2, 2, 2, 2)),
    "resnet34": partial(resnet, block=Basic, depths=(3, 4, 6, 3)),
    "resnet50": partial(resnet, block=Bottleneck, depths=(3, 4, 6, 3)),
    "resnet101": partial(resnet, block=Bottleneck, depths=(3, 4, 23, 3)),
    "resnet152": partial(resnet, block=Bottleneck, depths=(3, 8, 36, 3)),
    "wrn_16_8": partial(wide_resnet, depth=16, width=8),
    "wrn_28_2": partial(wide_resnet, depth=28, width=2),
    "wrn_28_10": partial(wide_resnet, depth=28, width=10),
    "wrn_34_10": partial(wide_resnet, depth=34, width=10),
    "pyramidnet_110_270": partial(_pyramidnet_110, shakedrop=False),
    "pyramidnet_110_270_shakedrop": partial(_pyramidnet_110, shakedrop=True),
    # Of bottlenecks, as several SAM libraries build it: 18.3 million parameters.
    "pyramidnet_110_270_bottleneck": partial(
        pyramidnet, depth=110, alpha=270, bottleneck=True, shakedrop=False
    ),
    "pyramidnet_272_200": partial(_pyramidnet_272, shakedrop=False),
    "pyramidnet_272_200_shakedrop": partial(_pyramidnet_272, shakedrop=True),
    "densenet_bc_100_12": partial(densenet, depth=100, growth=12),
    "vit_tiny": partial(vit, width=192, heads=3),
    "vit_small": partial(vit, width=384, heads=6),
    # DeiT's setting of the same networks (Touvron et al. 2021, arXiv 2012.12877, table 9).
    "deit_tiny": partial(vit, width=192, heads=3, drop=0.1),
    "deit_small": partial(vit, width=384, heads=6, drop=0.1),
}

_DROPPING = [name for name in MODELS if name.startswith(("resnet", "wrn"))]


def check_name(name: str) -> None:
    """Check that `name` is a model's.

    Names are those of MODELS, `torchvision:NAME`, `timm:NAME`, and
    `my_package.my_module:my_model` for a builder of one's own, whose module is imported.

    Raises:
        ModelError: There is no such model.
    """
    _builder(name)


def build_for(
    task: Mapping[str, Value], in_shape: tuple[int, int, int], classes: int, seed: int
) -> nn.Module:
    """Return the model that a task names, with its weights, dropout and frozen parameters.

    Raises:
        ModelError: There is no such model, or it does not fit the images or the weights.
    """
    name = str(task["model"])
    model = build(name, in_shape, classes, seed, float(task["dropout"]))
    if task["weights"]:
        load_weights(model, str(task["weights"]))
    freezing.freeze(model, freezing.patterns(task))
    return model


def build(
    name: str, in_shape: tuple[int, int, int], classes: int, seed: int, dropout: float = 0.0
) -> nn.Module:
    """Return the named model on the CPU.

    Its weights are drawn from `seed` alone, and the global random state stays as it was.

    Raises:
        ModelError: There is no such model, or it cannot take the images or dropout.
    """
    builder = _builder(name)
    if dropout:
        if name not in _DROPPING:
            raise ModelError(
                f"model {name} has no dropout; set task.dropout to 0, or take one of "
                f"{', '.join(_DROPPING)}"
            )
        builder = partial(builder, drop=dropout)
    # Torch's initialisers draw from the CPU's global generator; torch.manual_seed would also
    # reseed every accelerator, which fork_rng(devices=[]) does not restore.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            return builder(in_shape, classes)
        except ModelError as error:
            raise ModelError(f"model {name}: {error}") from error.__cause__


def _builder(name: str) -> Builder:
    if name in MODELS:
        return MODELS[name]
    if ":" in name:
        return external.find(name)
    hint = nearest(name, MODELS, "there is")
    if not hint.startswith("did"):
        hint += "; or torchvision:NAME, timm:NAME, or your own: my_package.my_module:my_model"
    raise ModelError(f"unknown model {name!r}; {hint}")
