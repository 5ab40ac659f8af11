"""Two processes train one trial: every figure of it equals one process's, where it can."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from samtune.optimizers import VARIANTS
from samtune.trial import Budget, Seeds, TrialConfig, Value, running
from trainables import precision
from trainables.batch_norm import SharedNorm
from trainables.parallel import ALONE, RankError, Ranks
from trainables.vision import vision

# 129 training images: of the last batch, of 64, of 50 and of 43, there are 1, 29 and 43.
TASK: dict[str, Value] = {"model": "small_cnn", "batch_size": 64, "train_size": 0.129}
CASES: dict[str, tuple[str, dict[str, Value], dict[str, Value]]] = {
    "a last batch of one": ("sam", {}, {}),
    "an odd batch": ("sgd", {"momentum": 0.9}, {"batch_size": 43, "augment": "standard"}),
    # Parts of a few pixels have equal values, of which a max-pool would take one by rounding.
    "random crops": (
        *("sam", {}),
        {"model": "test_parallel:plain", "batch_size": 50, "augment": "imagenet"},
    ),
    "mixed": ("asam", {}, {"batch_size": 50, "augment": "cutout", "mixup": 1.0, "cutmix": 1.0}),
    "no norm": ("gsam", {}, {"model": "test_parallel:plain", "batch_size": 50}),
    "m-sharpness": (
        *("sam", {"m": 25}),
        {"model": "test_parallel:plain", "batch_size": 50, "train_size": 0.1},
    ),
    "posterior": ("bayesian_sam", {"m": 1}, {"batch_size": 50}),
    "exponential average": ("sam", {}, {"batch_size": 50, "average": "ema"}),
    "thawing": ("sam", {}, {"batch_size": 50, "freeze": "0, 1", "unfreeze_at": 0.5}),
    "equal average": ("sgd", {}, {"average": "swa", "average_start": 0.5}),
    "selecting": ("esam", {"gamma": 0.05}, {}),
    "selecting twice": ("k_sam", {"kept": 0.05}, {"batch_size": 50}),
}
# Without equality: what each process does alone.
OTHERS: dict[str, tuple[str, dict[str, Value], dict[str, Value]]] = {
    "local norm": ("sam", {}, {"batch_size": 50, "batch_norm": "local"}),
    "unsynchronised": ("friendly_sam", {}, {"batch_size": 50, "sync_perturbation": False}),
    "compiled": ("sam", {}, {"batch_size": 50, "batch_norm": "local", "compile": True}),
    "posterior in parts": ("bayesian_sam", {"m": 8}, {"batch_size": 50, "train_size": 0.109}),
}
# The last batch of nine is five and four: fewer than bSAM's eight parts.
EVERY: dict[str, tuple[str, dict[str, Value], dict[str, Value]]] = {
    f"{name} {together}": (
        *(name, {}),
        {"batch_size": 50, "train_size": 0.109, "sync_perturbation": together},
    )
    for name in VARIANTS
    for together in (True, False)
}


def plain(in_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a network without BatchNorm: its steps do not depend on how a batch is split."""
    channels, height, width = in_shape
    first, last = nn.Conv2d(channels, 8, 3), nn.Linear(8 * (height - 2) * (width - 2), classes)
    return nn.Sequential(first, nn.Tanh(), nn.Flatten(), last)


OWN = {"train_s", "eval_s", "data_s", "peak_rss_mb"}


def config_of(case: str, workers: int, **words: Any) -> TrialConfig:
    variant, knobs, task = {**CASES, **OTHERS, **EVERY}[case]
    return TrialConfig(
        trainable=f"trainables.vision:{variant}",
        variant=variant,
        base=(VARIANTS[variant].bases or ("sgd",))[0],
        knobs=knobs,
        task={**TASK, **task},
        budget=Budget("epochs", 1 if case in EVERY else 2),
        seeds=Seeds(1, 1, 1),
        workers=workers,
        **words,
    )


def reports_of(config: TrialConfig) -> list[dict[str, Any]]:
    reports: list[dict[str, Any]] = []
    train(config, reports.append)
    return reports


_ports: list[int] = []


def train(config: TrialConfig, send: Callable[[dict[str, Any]], None]) -> None:
    if config.workers > 1:
        # A group leaves its store a moment after another one: each trial has one of its own.
        os.environ["MASTER_PORT"] = str(_ports.pop())
    with running(config, send):
        vision(VARIANTS[config.variant])(config)


class Killed(Exception):
    """An end of all processes, as of a killed trial."""


def _process(rank: int, file: str, ports: list[int]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    os.environ["XDG_CACHE_HOME"] = str(Path(file).parent)
    original = precision.compile_forward
    precision.compile_forward = lambda model, program, **_: original(model, program, "eager")
    _ports[:] = ports
    found: dict[str, Any] = {case: reports_of(config_of(case, 2)) for case in (*CASES, *EVERY)}
    for case in OTHERS:
        folder = f"{file}-{case}"
        found[case] = reports_of(config_of(case, 2))
        config = config_of(case, 2, checkpoint_dir=folder)

        def send(report: dict[str, Any]) -> None:
            if report["epoch"] == 1:
                raise Killed

        with pytest.raises(Killed):
            train(config, send)
        found[f"{case} resumed"] = reports_of(config)
    found["norm"] = _norm(rank)
    torch.save(found, f"{file}.{rank}")
    # At Python's own end a thread of torch may abort the process.
    os._exit(0)


def _norm(rank: int) -> dict[str, Any]:
    """Seven samples as two and five, in double precision; then one bit of a weight differs."""
    os.environ["MASTER_PORT"] = str(_ports.pop())
    dist.init_process_group("gloo")
    model, x = norm_problem()
    mine = slice(0, 2) if rank == 0 else slice(2, None)
    shared = SharedNorm(model, dist.group.WORLD)
    loss = model(x[mine]).square().sum(dim=(1, 2, 3)).mean()
    loss.backward()
    gradients = [p.grad * len(x[mine]) / len(x) for p in model.parameters()]
    for gradient in gradients:
        dist.all_reduce(gradient)
    shared.on = False
    ranks = Ranks(rank, 2, dist.group.WORLD)
    ranks.check_equal(model)
    if rank == 1:
        with torch.no_grad():
            model[3].bias[1].view(torch.int64).bitwise_xor_(1)
    with pytest.raises(RankError, match="the 2 processes of this trial no longer hold equal"):
        ranks.check_equal(model)
    dist.destroy_process_group()
    return {"gradients": gradients, "buffers": [*model.buffers()]}


def norm_problem() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 2, 1)
    return nn.Sequential(
        *layers, nn.BatchNorm2d(2, affine=False), nn.Tanh()
    ).double(), torch.randn(7, 2, 5, 5, dtype=torch.float64)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    from samtune.cluster.ranks import store

    file = tmp_path_factory.mktemp("parallel") / "found"
    count = len(CASES) + len(EVERY) + 3 * len(OTHERS) + 1
    stores = [store("127.0.0.1") for _ in range(count)]
    mp.spawn(_process, (str(file), [each.port for each in stores]), nprocs=2)
    return [torch.load(f"{file}.{rank}", weights_only=False) for rank in range(2)]


def assert_equal(found: list[dict[str, Any]], wanted: list[dict[str, Any]], within: float) -> None:
    assert [r["epoch"] for r in found] == [r["epoch"] for r in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        for name in theirs["metrics"].keys() - OWN:
            told = mine["metrics"][name]
            assert told == pytest.approx(theirs["metrics"][name], abs=within), name


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one_does(two: list[dict[str, Any]], case: str) -> None:
    assert_equal(two[0][case], two[1][case], 0)
    assert_equal(two[0][case], reports_of(config_of(case, 1)), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS)
def test_what_differs_between_processes_is_in_the_checkpoint(
    two: list[dict[str, Any]], case: str
) -> None:
    first, second = two[0][case]
    assert_equal(two[0][f"{case} resumed"], [first, second], 0)
    assert first["metrics"]["train_loss"] != second["metrics"]["train_loss"]
    one = reports_of(config_of(case, 1))[-1]["metrics"]
    assert second["metrics"]["train_loss"] != one["train_loss"], "it is another method"
    assert second["metrics"]["step"] == one["step"]


@pytest.mark.slow
@pytest.mark.parametrize("case", EVERY)
def test_every_variant_makes_the_same_steps_in_both(two: list[dict[str, Any]], case: str) -> None:
    """Whose weights differed after an epoch would have raised."""
    assert_equal(two[0][case], two[1][case], 0)
    assert two[0][case][-1]["metrics"]["step"] == 3


@pytest.mark.slow
def test_shared_batch_norm_weighs_samples_and_not_processes(two: list[dict[str, Any]]) -> None:
    model, x = norm_problem()
    model(x).square().sum(dim=(1, 2, 3)).mean().backward()
    for rank in two:
        for mine, p in zip(rank["norm"]["gradients"], model.parameters(), strict=True):
            torch.testing.assert_close(mine, p.grad, rtol=1e-12, atol=1e-12)
        for mine, buffer in zip(rank["norm"]["buffers"], model.buffers(), strict=True):
            torch.testing.assert_close(mine, buffer, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 11])
def test_shares_are_the_batch(count: int) -> None:
    shares = [Ranks(rank, 3, None).share(count) for rank in range(3)]
    rows = [row for share in shares for row in range(count)[share.rows]]
    assert sorted(rows) == sorted([*range(count)] * shares[0].copies)
    assert {share.count for share in shares} == {count}
    assert all(range(count)[share.rows] for share in shares), "no rank is without a sample"


def test_alone_nothing_is_shared() -> None:
    assert ALONE.share(5).rows == slice(0, 5) and ALONE.total(2.0, 3.0) == [2.0, 3.0]
