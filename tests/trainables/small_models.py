"""Each family of networks in its smallest form, for the models' tests."""

from __future__ import annotations

import torch
from torch import nn

from trainables.models.densenet import densenet
from trainables.models.pyramidnet import pyramidnet
from trainables.models.resnet import Basic, Bottleneck, resnet
from trainables.models.vit import vit
from trainables.models.wide_resnet import wide_resnet

CIFAR = (3, 32, 32)


# Each family's smallest form, every kind of block in it.
SMALLEST = {
    "resnet": lambda s, c: resnet(s, c, Basic, (1, 1)),
    "resnet_bottleneck": lambda s, c: resnet(s, c, Bottleneck, (1, 1)),
    "wide_resnet": lambda s, c: wide_resnet(s, c, 10, 1),
    "pyramidnet": lambda s, c: pyramidnet(s, c, 8, 9, False, False),
    "pyramidnet_shakedrop": lambda s, c: pyramidnet(s, c, 11, 9, True, True),
    "densenet": lambda s, c: densenet(s, c, 10, 4),
    "vit": lambda s, c: vit(s, c, 24, 3, depth=2),
    "deit": lambda s, c: vit(s, c, 24, 3, depth=2, drop=0.5),
}


def smallest(name: str, in_shape: tuple[int, int, int] = CIFAR) -> nn.Module:
    torch.manual_seed(3)
    return SMALLEST[name](in_shape, 10)
