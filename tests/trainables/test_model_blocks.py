"""The networks' blocks compute what their papers' figures and equations say."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models import MODELS
from trainables.models.densenet import Layer
from trainables.models.pyramidnet import Block as PyramidalBlock
from trainables.models.resnet import Basic, Bottleneck
from trainables.models.vit import StochasticDepth, vit
from trainables.models.wide_resnet import Block as WideBlock


def drawn(block: nn.Module) -> nn.Module:
    """Put a block into evaluation, with random weights and statistics."""
    torch.manual_seed(1)
    for value in block.state_dict().values():
        if value.is_floating_point():
            # Variances among them, so above 0.
            value.copy_(torch.rand_like(value) + 0.1)
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight)
    return block.double().eval()


def activated(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    found = (x - norm.running_mean.view(-1, 1, 1)) / (
        norm.running_var.view(-1, 1, 1) + norm.eps
    ).sqrt()
    return (found * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)).relu()


def images(channels: int, side: int = 8) -> Tensor:
    draw = torch.Generator().manual_seed(2)
    return torch.randn(2, channels, side, side, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize(("outputs", "stride"), [(4, 1), (6, 1), (6, 2)])
def test_a_wide_block_is_pre_activated(outputs: int, stride: int) -> None:
    """Zagoruyko and Komodakis 2016, figure 1; a projection is of the activated maps."""
    block, x = drawn(WideBlock(4, outputs, stride)), images(4)
    active = activated(block.bn1, x)
    inner = activated(block.bn2, F.conv2d(active, block.conv1.weight, stride=stride, padding=1))
    shortcut = x if outputs == 4 else F.conv2d(active, block.projection.weight, stride=stride)
    expected = shortcut + F.conv2d(inner, block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x.clone()), expected)


@pytest.mark.parametrize(("bottleneck", "kernels"), [(False, [3, 3]), (True, [1, 3, 1])])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_pyramidal_block_adds_to_a_shortcut_with_maps_of_zeros(
    bottleneck: bool, kernels: list[int], stride: int
) -> None:
    """Han et al. 2017, figures 5 b and 6 d."""
    block, x = drawn(PyramidalBlock(4, 6, stride, bottleneck, None)), images(4)
    kinds = [type(layer).__name__ for layer in block.branch]
    between = ["Conv2d", "BatchNorm2d", "ReLU"] * (len(kernels) - 1)
    assert kinds == ["BatchNorm2d", *between, "Conv2d", "BatchNorm2d"]
    layers = [layer for layer in block.branch if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size[0] for layer in layers] == kernels
    strides = [layer.stride[0] for layer in layers if layer.kernel_size[0] == 3]
    assert strides == [stride, *[1] * (len(strides) - 1)]
    branch = block.branch(x.clone())
    shortcut = torch.zeros_like(branch)
    shortcut[:, :4] = x if stride == 1 else F.avg_pool2d(x, 2)
    torch.testing.assert_close(block(x.clone()), shortcut + branch)


def test_a_dense_layer_adds_its_maps_to_its_input() -> None:
    """Huang et al. 2017, section 3: BN-ReLU-1x1 to 4 growth maps, BN-ReLU-3x3."""
    layer, x = drawn(Layer(5, 3)), images(5)
    first, _, narrow, second, _, wide = layer.new
    inner = F.conv2d(activated(first, x), narrow.weight)
    assert inner.shape[1] == 12
    new = F.conv2d(activated(second, inner), wide.weight, padding=1)
    torch.testing.assert_close(layer(x.clone()), torch.cat([x, new], 1))


def test_a_vision_transformer_is_torchvisions() -> None:
    from torchvision import models

    ours = vit((3, 16, 16), 7, 24, 3, depth=2).double().eval()
    torch.manual_seed(1)
    for p in ours.parameters():
        nn.init.normal_(p, std=0.3)
    theirs = models.VisionTransformer(16, 4, 2, 3, 24, 96, num_classes=7).double().eval()
    token, position, weight, bias, *others = ours.state_dict().values()
    values = [token, weight, bias, position, *others]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    x = images(3, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_stochastic_depth_grows_linearly_to_its_last_rate() -> None:
    """Huang et al. 2016, equation 4, from the first block's 0 as in DeiT's code."""
    network = vit((3, 16, 16), 7, 24, 3, depth=4, drop=0.3)
    kept = [m.keep for m in network.modules() if isinstance(m, StochasticDepth)]
    assert kept == pytest.approx([1, 1, 0.9, 0.9, 0.8, 0.8, 0.7, 0.7])


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet18", {32: 2, 16: 2, 8: 2, 4: 2}),
        ("resnet50", {32: 3, 16: 4, 8: 6, 4: 3}),
        ("wrn_28_10", {32: 4, 16: 4, 8: 4}),
        ("pyramidnet_110_270", {32: 18, 16: 18, 8: 18}),
        ("pyramidnet_272_200_shakedrop", {32: 30, 16: 30, 8: 30}),
        ("densenet_bc_100_12", {32: 16, 16: 16, 8: 16}),
    ],
)
def test_as_many_blocks_at_each_size_as_the_papers_tables_have(
    name: str, blocks: dict[int, int]
) -> None:
    with torch.device("meta"):
        model = MODELS[name]((3, 32, 32), 10)
    sides: list[int] = []
    for module in model:
        if isinstance(module, Basic | Bottleneck | WideBlock | PyramidalBlock | Layer):
            module.register_forward_hook(lambda _, __, out: sides.append(out.shape[-1]))
    model(torch.empty(2, 3, 32, 32, device="meta"))
    assert Counter(sides) == blocks
    assert sides == sorted(sides, reverse=True)
