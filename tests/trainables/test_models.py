"""The networks: their published sizes, their weights, their layout and their passes."""

from __future__ import annotations

import shutil
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from small_models import CIFAR, SMALLEST, smallest
from torch import Tensor, nn
from torch._inductor import config as inductor

from trainables.models import MODELS, ModelError, build

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGENET = (3, 224, 224)


@cache
def size(name: str, in_shape: tuple[int, int, int], classes: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in MODELS[name](in_shape, classes).parameters())


# Published sizes


@pytest.mark.parametrize(
    ("name", "in_shape", "classes", "parameters", "published"),
    [
        # kuangliu/pytorch-cifar, whose ResNet is the CIFAR form of the SAM literature.
        ("resnet18", CIFAR, 10, 11_173_962, "11.17"),
        ("resnet34", CIFAR, 10, 21_282_122, "21.28"),
        ("resnet50", CIFAR, 10, 23_520_842, "23.52"),
        ("resnet101", CIFAR, 10, 42_512_970, "42.51"),
        ("resnet152", CIFAR, 10, 58_156_618, "58.16"),
        # torchvision's tables of weights.
        ("resnet18", IMAGENET, 1000, 11_689_512, "11.69"),
        ("resnet34", IMAGENET, 1000, 21_797_672, "21.80"),
        ("resnet50", IMAGENET, 1000, 25_557_032, "25.56"),
        ("resnet101", IMAGENET, 1000, 44_549_160, "44.55"),
        ("resnet152", IMAGENET, 1000, 60_192_808, "60.19"),
        # As SAM libraries build it, counted there.
        ("pyramidnet_110_270_bottleneck", CIFAR, 10, 18_323_787, "18.32"),
        # Zagoruyko and Komodakis 2016, table 4 (16-8: 11.0, 28-10: 36.5).
        ("wrn_16_8", CIFAR, 10, 10_961_370, "10.96"),
        ("wrn_28_10", CIFAR, 10, 36_479_194, "36.48"),
        # Oliver et al. 2018 (arXiv 1804.09170): 1.5 M.
        ("wrn_28_2", CIFAR, 10, 1_467_610, "1.47"),
        # The robustness literature's network, as in RobustBench: 46.16 M.
        ("wrn_34_10", CIFAR, 10, 46_160_474, "46.16"),
        # Han et al. 2017, table 4: 28.3 M and 26.0 M with widths cut off. Rounding, as in the
        # authors' PyTorch code and SAM's, adds 0.2 M (README of google-research/sam).
        ("pyramidnet_110_270", CIFAR, 10, 28_485_477, "28.49"),
        ("pyramidnet_272_200", CIFAR, 10, 26_210_842, "26.21"),
        ("pyramidnet_272_200_shakedrop", CIFAR, 10, 26_210_842, "26.21"),
        # Huang et al. 2017, table 2: 0.8 M.
        ("densenet_bc_100_12", CIFAR, 10, 769_162, "0.77"),
        # Touvron et al. 2021, table 1: DeiT-Ti 5 M and DeiT-S 22 M, patches of 16 at 224 pixels.
        ("vit_tiny", IMAGENET, 1000, 5_717_416, "5.72"),
        ("deit_small", IMAGENET, 1000, 22_050_664, "22.05"),
        # The same with patches of 4 and of 8: less patch weights, positions and classes.
        ("vit_tiny", CIFAR, 10, 5_362_762, "5.36"),
        ("vit_small", CIFAR, 10, 21_342_346, "21.34"),
        ("vit_small", (3, 64, 64), 200, 21_470_792, "21.47"),
    ],
)
def test_sizes_are_the_published_ones(
    name: str, in_shape: tuple[int, int, int], classes: int, parameters: int, published: str
) -> None:
    counted = size(name, in_shape, classes)
    assert counted == parameters
    assert f"{counted / 1e6:.2f}" == published


def test_shakedrop_and_stochastic_depth_add_no_weights() -> None:
    for name in MODELS:
        plain = name.removesuffix("_shakedrop").replace("deit", "vit")
        assert size(name, CIFAR, 10) == size(plain, CIFAR, 10)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pixels"), [("resnet18", 65), ("resnet50", 96)])
def test_above_64_pixels_resnets_are_torchvisions(name: str, pixels: int) -> None:
    from torchvision import models

    ours = build(name, (3, pixels, pixels), 10, 1).eval()
    theirs = models.get_model(name, weights=None, num_classes=10).eval()
    shapes = [value.shape for value in theirs.state_dict().values()]
    # Torchvision lists a block's projection last, and so do these blocks.
    assert [value.shape for value in ours.state_dict().values()] == shapes
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, pixels, pixels, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


# Weights


@pytest.mark.parametrize("name", [n for n in MODELS if size(n, CIFAR, 10) < 12e6])
def test_weights_are_drawn_from_the_seed_alone(name: str) -> None:
    before = torch.get_rng_state()
    first, again, other = (build(name, CIFAR, 10, seed).state_dict() for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    matrices = [key for key, value in first.items() if value.dim() > 1]
    assert matrices and not any(torch.equal(first[key], other[key]) for key in matrices)


@pytest.mark.parametrize("name", [n for n in SMALLEST if "it" not in n])
def test_convolutions_start_as_he_and_batch_norms_as_the_identity(name: str) -> None:
    for module in smallest(name).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
        if isinstance(module, nn.Linear):
            assert (module.bias == 0).all()
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_vit_starts_as_deit() -> None:
    network = build("vit_tiny", CIFAR, 10, 1)
    for name, value in network.named_parameters():
        if name.startswith("patches"):
            continue
        if value.dim() == 1:
            assert (value == (1 if "weight" in name else 0)).all(), name
        else:
            assert value.std().item() == pytest.approx(0.02, rel=0.1), name


# Passes


def passes(name: str, in_shape: tuple[int, int, int], classes: int = 10) -> None:
    model = build(name, in_shape, classes, 1)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, *in_shape, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        outputs = model(x)
    loss = F.cross_entropy(outputs, torch.tensor([0, classes - 1]))
    loss.backward()
    assert outputs.shape == (2, classes)
    assert loss.isfinite()
    for word, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), word


LARGE = [name for name in MODELS if size(name, CIFAR, 10) > 25e6]


@pytest.mark.parametrize("name", [name for name in MODELS if name not in LARGE])
def test_every_model_trains_on_cifar_images(name: str) -> None:
    passes(name, CIFAR)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_every_large_model_trains(name: str) -> None:
    passes(name, (3, 16, 16))  # At 32 x 32 they take ten seconds each.


@pytest.mark.parametrize("name", ["resnet18", "wrn_28_2", "densenet_bc_100_12", "vit_tiny"])
@pytest.mark.parametrize("in_shape", [(3, 64, 64), (1, 8, 8), (1, 28, 28)])
def test_other_image_sizes(name: str, in_shape: tuple[int, int, int]) -> None:
    passes(name, in_shape, 3)


@pytest.mark.parametrize("name", [name for name in SMALLEST if "it" not in name])
def test_convolutions_take_odd_sizes(name: str) -> None:
    assert smallest(name, (3, 37, 53))(torch.zeros(2, 3, 37, 53)).shape == (2, 10)


@pytest.mark.parametrize("name", SMALLEST)
def test_large_images_meet_the_stem_of_imagenet(name: str) -> None:
    model = smallest(name, (3, 96, 112))
    x = torch.zeros(2, 3, 96, 112)
    assert model(x).shape == (2, 10)
    if "it" not in name:
        assert model[0](x).shape[2:] == (24, 28)


@pytest.mark.parametrize(
    ("name", "in_shape", "message"),
    [
        (
            "resnet18",
            (1, 4, 8),
            "model resnet18: images of 4 x 8 pixels are too small; this network needs at least "
            "8 x 8. small_cnn takes any size",
        ),
        (
            "wrn_28_10",
            (3, 16, 100),
            "model wrn_28_10: images of 16 x 100 pixels are too small; this network needs at "
            "least 32 x 32 when a side is above 64. small_cnn takes any size",
        ),
        (
            "vit_tiny",
            (3, 32, 30),
            "model vit_tiny: images of 32 x 30 pixels do not divide into patches of 4 x 4; resize "
            "them to a multiple of 4, or take a network of convolutions, such as resnet18",
        ),
    ],
)
def test_images_that_do_not_fit(name: str, in_shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(name, in_shape, 10, 1)
    assert str(caught.value) == message


# Layout and compilation


@pytest.mark.parametrize("name", SMALLEST)
def test_channels_last_goes_through_the_whole_network(name: str) -> None:
    model = smallest(name)
    x = torch.randn(4, *CIFAR, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(1)
    plain = model(x)
    model = smallest(name).to(memory_format=torch.channels_last)
    maps: list[tuple[str, Tensor]] = []
    for word, module in model.named_modules():

        def keep(_: nn.Module, __: object, out: Tensor, word: str = word) -> None:
            maps.append((word, out))

        module.register_forward_hook(keep)
    torch.manual_seed(1)
    outputs = model(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(outputs, plain, rtol=1e-4, atol=1e-4)
    seen = [(word, out) for word, out in maps if out.dim() == 4]
    assert seen
    for word, out in seen:
        if not word.startswith("blocks"):
            assert out.is_contiguous(memory_format=torch.channels_last), word


def compiles(name: str, backend: str) -> None:
    """Assert that a model compiles to one graph, with the plain outputs, gradients and buffers."""
    torch.compiler.reset()
    plain, model = smallest(name), smallest(name)
    compiled = torch.compile(model, backend=backend, fullgraph=True)  # A graph break raises.
    x = torch.randn(4, *CIFAR, generator=torch.Generator().manual_seed(1))
    outputs = []
    for network in (compiled, plain):
        torch.manual_seed(1)
        outputs.append(network(x))
        outputs[-1].logsumexp(1).sum().backward()
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)
    for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_networks_train_as_one_graph(name: str) -> None:
    compiles(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["pyramidnet_shakedrop", "vit"])
def test_compiled_networks_train_alike(name: str) -> None:
    """Those whose code is their own; half a minute each, nearly all of it g++'s."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile on the CPU needs a C++ compiler (g++ or clang++)")
    # Compiled code has a stream of its own; `fallback_random` takes the plain one's draws.
    with inductor.patch(compile_threads=1, fallback_random=True):
        compiles(name, "inductor")
