"""The networks: their published sizes, their weights, their layout, and ShakeDrop's equation."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._inductor import config as inductor

from samtune.optimizers import SAM, GradientOracle
from samtune.optimizers.oracle import Index
from samtune.optimizers.tensors import Gradients
from trainables.models import MODELS, ModelError, build, check_name
from trainables.models.densenet import densenet
from trainables.models.pyramidnet import pyramidnet
from trainables.models.resnet import Basic, Bottleneck, resnet
from trainables.models.shakedrop import ShakeDrop
from trainables.models.vit import StochasticDepth, vit
from trainables.models.wide_resnet import wide_resnet

CIFAR = (3, 32, 32)
IMAGENET = (3, 224, 224)
PER_SAMPLE = torch.nn.CrossEntropyLoss(reduction="none")

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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def size(name: str, in_shape: tuple[int, int, int], classes: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in MODELS[name](in_shape, classes).parameters())


def smallest(name: str, in_shape: tuple[int, int, int] = CIFAR) -> nn.Module:
    torch.manual_seed(3)
    return SMALLEST[name](in_shape, 10)


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
    models = pytest.importorskip("torchvision.models")
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
            assert value.abs().max() <= 2, name


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
    """In training, as one graph, with the outputs, gradients and buffers of the plain network."""
    torch._dynamo.reset()
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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_shakedrop_replays_its_draws() -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile on the CPU needs a C++ compiler (g++ or clang++)")
    torch._dynamo.reset()
    with inductor.patch(compile_threads=1):
        shake = torch.compile(ShakeDrop(0.5), fullgraph=True)
        x = torch.ones(64, 1, 2, 2)
        state = torch.get_rng_state()
        first, other = shake(x), shake(x)
        torch.set_rng_state(state)
        assert torch.equal(shake(x), first) and not torch.equal(first, other)


# ShakeDrop and stochastic depth


def test_shakedrop_follows_its_equation() -> None:
    shake = ShakeDrop(0.5)
    x = torch.randn(4000, 2, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    torch.manual_seed(1)
    out = shake(x)
    out.sum().backward()
    assert x.grad is not None
    forward, backward = (out / x).detach(), x.grad
    # One factor an image.
    torch.testing.assert_close(forward, forward[:, :1, :1, :1].expand_as(forward))
    torch.testing.assert_close(backward, backward[:, :1, :1, :1].expand_as(backward))
    forward, backward = forward[:, 0, 0, 0], backward[:, 0, 0, 0]
    kept = backward == 1
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close(forward[kept], torch.ones_like(forward[kept]))
    alpha, beta = forward[~kept], backward[~kept]
    assert alpha.min() < -0.95 and alpha.max() > 0.95 and (alpha.abs() <= 1 + 1e-5).all()
    assert beta.min() < 0.05 and beta.max() > 0.95 and ((beta >= 0) & (beta < 1)).all()
    assert abs(torch.corrcoef(torch.stack([alpha, beta]))[0, 1]) < 0.1


def test_shakedrop_evaluates_at_its_expectation() -> None:
    shake = ShakeDrop(0.7)
    x = torch.ones(40_000, 1, 1, 1)
    torch.manual_seed(1)
    mean = shake(x).mean().item()
    state = torch.get_rng_state()
    assert torch.equal(shake.eval()(x), torch.full_like(x, 0.7))
    assert torch.equal(torch.get_rng_state(), state)
    assert mean == pytest.approx(0.7, abs=0.02)


def test_shakedrop_keeps_the_dtype_and_the_layout() -> None:
    x = torch.randn(2, 4, 3, 3).to(torch.bfloat16, memory_format=torch.channels_last)
    out = ShakeDrop(0.5)(x)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_the_keep_rate_falls_linearly_to_a_half() -> None:
    with torch.device("meta"):
        network = MODELS["pyramidnet_110_270_shakedrop"](CIFAR, 10)
    rates = [m.keep for m in network.modules() if isinstance(m, ShakeDrop)]
    assert len(rates) == 54
    assert rates[0] == pytest.approx(1 - 0.5 / 54) and rates[-1] == 0.5
    steps = [a - b for a, b in pairwise(rates)]
    assert steps == pytest.approx([0.5 / 54] * 53)


def test_stochastic_depth_drops_whole_branches_and_keeps_the_mean() -> None:
    drop = StochasticDepth(0.25)
    x = torch.ones(20_000, 2, 3)
    torch.manual_seed(1)
    out = drop(x)
    assert set(out.flatten(1).std(1).tolist()) == {0.0}
    assert sorted(out.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert out.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(drop.eval()(x), x)


class Recorded(GradientOracle):
    """Keeps the gradient of each pass, as one vector."""

    seen: list[Tensor]

    def grad(self, parameters: Sequence[Tensor], index: Index | None = None) -> Gradients:
        gradients = super().grad(parameters, index)
        self.seen.append(torch.cat([g.flatten() for g in gradients if g is not None]))
        return gradients


@pytest.mark.parametrize("name", ["pyramidnet_shakedrop", "deit"])
@pytest.mark.parametrize("replay", [True, False])
def test_sams_second_pass_draws_the_same_branches(name: str, replay: bool) -> None:
    model = smallest(name).double().train()
    x = torch.randn(8, *CIFAR, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    # So near that both passes have the same gradient, but for what they draw.
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=1e-12)
    oracle = Recorded(model, x, torch.arange(8), PER_SAMPLE, replay_rng=replay)
    oracle.seen = []
    optimizer.step(oracle)
    first, second = oracle.seen
    assert torch.allclose(first, second, rtol=1e-6, atol=1e-8) == replay


# Names


def test_unknown_names() -> None:
    with pytest.raises(ModelError, match="unknown model 'resnet-18'; did you mean resnet18"):
        check_name("resnet-18")
    with pytest.raises(ModelError) as caught:
        build("transformer", CIFAR, 10, 1)
    listed = ", ".join(MODELS)
    assert str(caught.value) == (
        f"unknown model 'transformer'; there is: {listed}; or torchvision:NAME, or your own: "
        "my_package.my_module:my_model"
    )
    for name in MODELS:
        check_name(name)


def test_names_are_checked_without_torchvision() -> None:
    code = """
        import sys
        sys.modules["torchvision"] = None  # As if it could not be imported.
        from trainables.models import ModelError, build, check_name
        check_name("resnet18")
        check_name("collections:OrderedDict")
        build("small_cnn", (1, 8, 8), 10, 1)
        assert "timm" not in sys.modules
        try:
            check_name("torchvision:resnet50")
        except ModelError as error:
            print(error)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(
        "torchvision:resnet50 needs torchvision, which cannot be imported"
    )
    assert "or take samtune's own resnet50" in ran.stdout


@pytest.mark.slow
def test_torchvisions_classifiers_by_name() -> None:
    pytest.importorskip("torchvision")
    check_name("torchvision:efficientnet_b0")
    with pytest.raises(ModelError, match="no classifier 'resnet5O'; did you mean resnet50"):
        check_name("torchvision:resnet5O")
    with pytest.raises(ModelError, match="torchvision has no classifier 'fcn_resnet50'"):
        check_name("torchvision:fcn_resnet50")  # Segmentation.
    first, again, other = (
        build("torchvision:squeezenet1_1", (3, 64, 64), 7, seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["classifier.1.weight"], other["classifier.1.weight"])
    model = build("torchvision:googlenet", (3, 96, 96), 5, 1)
    assert model.training and model(torch.zeros(2, 3, 96, 96)).shape == (2, 5)
    with pytest.raises(
        ModelError, match=r"model torchvision:alexnet: cannot take images of 3 x 8 x 8: Runtime"
    ):
        build("torchvision:alexnet", (3, 8, 8), 10, 1)
    with pytest.raises(ModelError, match="take 3 channels, these images have 1"):
        build("torchvision:resnet18", (1, 8, 8), 10, 1)


USERS = """
import torch
from torch import nn

def mine(in_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(in_shape[1] ** 2), nn.LazyLinear(classes))

def narrow(in_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_shape[1] ** 2, classes - 1))

def wrong(in_shape, classes):
    return nn.Conv2d(3, classes, 1)

def nothing(in_shape, classes):
    return None

number = 3
"""


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "users_models.py").write_text(USERS)
    (tmp_path / "users_broken.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "users_models"
    for name in ("users_models", "users_broken"):
        sys.modules.pop(name, None)


def test_a_model_of_ones_own(users_module: str) -> None:
    check_name("users_models:mine")
    first, again, other = (build("users_models:mine", (1, 8, 8), 10, seed) for seed in (1, 1, 2))
    assert torch.equal(first[2].weight, again[2].weight)
    assert not torch.equal(first[2].weight, other[2].weight)
    # It is tried out on one image, which leaves its BatchNorm as it was.
    assert first.training and first[1].num_batches_tracked == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("users_models:mien", "module users_models has no model 'mien'; did you mean mine?"),
        ("users_models:number", "module users_models has no model 'number'; "),
        ("users_model:mine", "no module 'users_model' in "),
        ("users_broken:mine", "module users_broken cannot be imported: No module named 'nothing_"),
        ("users models:mine", "'users models:mine' names no model; write torchvision:resnet50, "),
        (
            "users_models:narrow",
            "model users_models:narrow: gives shape (1, 9) for one image of 1 x 8 x 8; with 10 "
            "classes it must give a tensor of shape (1, 10)",
        ),
        (
            "users_models:wrong",
            "model users_models:wrong: cannot take images of 1 x 8 x 8: RuntimeError: Given ",
        ),
        (
            "users_models:nothing",
            "model users_models:nothing: returned a NoneType, not a torch.nn.Module",
        ),
    ],
)
def test_faults_in_a_model_of_ones_own(users_module: str, name: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(name, (1, 8, 8), 10, 1)
    assert str(caught.value).startswith(message)
