"""Models by name. A builder takes in_shape (C, H, W) and the number of classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from trainables.models import external
from trainables.models.densenet import densenet
from trainables.models.parts import ModelError
from trainables.models.pyramidnet import pyramidnet
from trainables.models.resnet import Basic, Bottleneck, resnet
from trainables.models.small_cnn import small_cnn
from trainables.models.vit import vit
from trainables.models.wide_resnet import wide_resnet

__all__ = ["MODELS", "Builder", "ModelError", "build", "check_name"]

Builder = Callable[[tuple[int, int, int], int], nn.Module]

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
    "pyramidnet_272_200": partial(_pyramidnet_272, shakedrop=False),
    "pyramidnet_272_200_shakedrop": partial(_pyramidnet_272, shakedrop=True),
    "densenet_bc_100_12": partial(densenet, depth=100, growth=12),
    "vit_tiny": partial(vit, width=192, heads=3),
    "vit_small": partial(vit, width=384, heads=6),
    # DeiT's setting of the same networks (Touvron et al. 2021, arXiv 2012.12877, table 9).
    "deit_tiny": partial(vit, width=192, heads=3, drop=0.1),
    "deit_small": partial(vit, width=384, heads=6, drop=0.1),
}


def check_name(name: str) -> None:
    """Raises ModelError unless `name` is a model's.

    Names are those of MODELS, `torchvision:NAME` for its classifiers, and
    `my_package.my_module:my_model` for a builder of one's own, whose module is imported.
    """
    _builder(name)


def build(name: str, in_shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
    """The named model on the CPU, its weights drawn from `seed` alone; global RNG untouched.

    Raises ModelError for an unknown name, and for images that the model cannot take.
    """
    builder = _builder(name)
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
    hint = external.nearest(name, MODELS)
    if not hint.startswith("did"):
        hint += "; or torchvision:NAME, or your own: my_package.my_module:my_model"
    raise ModelError(f"unknown model {name!r}; {hint}")
