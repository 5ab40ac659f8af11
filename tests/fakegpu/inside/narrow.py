"""Narrow networks for tests: a ResNet-18 of few channels, with all of its layers and launches."""

from __future__ import annotations

from torch import nn

from trainables.models.parts import stem
from trainables.models.resnet import Basic


def resnet18(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
    layers: list[nn.Module] = [stem(in_shape, 8, nn.BatchNorm2d(8), nn.ReLU(inplace=True))]
    maps = 8
    for stage in range(4):
        for stride in (2 if stage else 1, 1):
            layers.append(Basic(maps, 8 * 2**stage, stride))
            maps = 8 * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(maps, classes))


def two_layers(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a network that is soon compiled, with kernels that do not need each other."""
    layers: list[nn.Module] = []
    for before, maps in ((in_shape[0], 8), (8, 16)):
        layers += [nn.Conv2d(before, maps, 3, bias=False), nn.BatchNorm2d(maps), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))


def dropping(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a network with dropout of its own, which no word of the task says."""
    return nn.Sequential(two_layers(in_shape, classes), nn.Dropout(0.1))
