"""Two processes with half of the batch each make the step of one process, or m-sharpness."""

from __future__ import annotations

import os

import problems
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from problems import batches, loss_fn, make, norm_net, plain_net, poisoned, seeded
from torch import nn

from samtune.optimizers import VARIANTS, GradientOracle
from samtune.optimizers.two_pass import Sharpened

# bSAM's parts are each a part of all processes' parts, and so not those of one process.
SYNCHRONISED = {n: (n, {"m": 1} if n == "bayesian_sam" else {}) for n in VARIANTS}
SYNCHRONISED |= {
    "fisher_sam sample": ("fisher_sam", {"fisher": "sample"}),
    "esam tensor": ("esam", {"swp_mode": "tensor", "beta": 0.7}),
    # Two or one of sixteen, so that a process often has none in a pass.
    "esam few": ("esam", {"gamma": 0.1}),
    "k_sam one": ("k_sam", {"kept": 0.0}),
    # Samples of the first process only, and of both.
    "sparse_sam of one": ("sparse_sam", {"mask": "fisher", "samples": 4, "update_freq": 2}),
    "sparse_sam of both": ("sparse_sam", {"mask": "fisher", "samples": 9, "update_freq": 2}),
}
UNSYNCHRONISED = [n for n, v in VARIANTS.items() if issubclass(v, Sharpened)]
DATA = batches(4) + batches(1, size=10)
HALF = {16: 8, 10: 5}
UNEVEN = ["sam", "esam", "k_sam"]
NORMALISED = [
    ("esam", {"gamma": 0.2}),
    ("k_sam", {"kept": 0.2}),
    ("k_sam", {"kept": 0.0}),
    ("bayesian_sam", {"m": 8}),
    ("sam", {"m": 2}),
]


def _step(variant, model, x, y, rank, **options):
    half = HALF[len(x)]
    mine = slice(0, half) if rank == 0 else slice(half, None)
    oracle = GradientOracle(model, x[mine], y[mine], loss_fn, ddp=dist.group.WORLD, **options)
    return variant.step(oracle)


def _process(rank: int, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    found = {}
    for case, (name, knobs) in SYNCHRONISED.items():
        model = seeded(plain_net)
        variant = make(name, model, **knobs)
        results = [_step(variant, model, x, y, rank) for x, y in DATA]
        found["synchronised", case] = problems.weights(model)
        found["samples", case] = [(r.forward_samples, r.backward_samples) for r in results]
    for name in UNSYNCHRONISED:
        model = seeded(plain_net)
        variant = make(name, model)
        for x, y in DATA:
            _step(variant, model, x, y, rank, sync_perturbation=False)
        found["unsynchronised", name] = problems.weights(model)
        found["state", name] = variant.memory
    model = seeded(plain_net)
    variant = make("esam", model, gamma=0.1)
    steps = [_step(variant, model, x, y, rank, sync_perturbation=False) for x, y in DATA[:4]]
    found["own"] = [result.backward_samples for result in steps]
    found["uneven"] = {name: _uneven(name, rank) for name in UNEVEN}
    found["chunks"] = _chunks(rank)
    found["least"] = [_least(name, rank, knobs) for name, knobs in NORMALISED]
    found["overflow"] = _overflow(rank)
    found["deciding"] = _deciding(rank)
    torch.save(found, f"{file}.{rank}")
    dist.destroy_process_group()
    # At Python's own end a thread of torch may abort the process.
    os._exit(0)


def _uneven(name: str, rank: int) -> torch.Tensor:
    model = seeded(plain_net)
    variant = make(name, model)
    for x, y in DATA:
        mine = slice(0, 3) if rank == 0 else slice(3, None)
        variant.step(GradientOracle(model, x[mine], y[mine], loss_fn, ddp=dist.group.WORLD))
    return problems.weights(model)


def _least(name: str, rank: int, knobs: dict) -> list[int]:
    """Return the sizes of the passes of a model with BatchNorm per process."""
    model = seeded(norm_net)
    sizes = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    variant = make(name, model, **knobs)
    for x, y in DATA:
        mine = slice(0, 3) if rank == 0 else slice(3, None)
        variant.step(GradientOracle(model, x[mine], y[mine], loss_fn, ddp=dist.group.WORLD))
    return sizes


def _chunks(rank: int) -> torch.Tensor:
    model = seeded(plain_net)
    variant = make("sam", model, m=4)
    for x, y in DATA[:4]:
        _step(variant, model, x, y, rank)
    return problems.weights(model)


def _overflow(rank: int) -> tuple[bool, float, torch.Tensor]:
    """Make a step in which only process 1 has an infinite second pass."""
    model = seeded(plain_net)
    variant = make("sam", model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    (x, y), *rest = [(x[rank * 8 :][:8], y[rank * 8 :][:8]) for x, y in DATA[:3]]
    loss = poisoned(2) if rank else loss_fn
    for unsync in (False, True):
        oracle = GradientOracle(
            model, x, y, loss, ddp=dist.group.WORLD, scaler=scaler, sync_perturbation=not unsync
        )
        skipped = variant.step(oracle).skipped
        loss = poisoned(2) if rank else loss_fn
        assert skipped
    for x, y in rest:
        oracle = GradientOracle(model, x, y, loss_fn, ddp=dist.group.WORLD, scaler=scaler)
        assert not variant.step(oracle).skipped
    return skipped, scaler.get_scale(), problems.weights(model)


def _deciding(rank: int) -> dict[str, object]:
    """Unsynchronised AE-SAM decides in each process by itself; process 1 then has an overflow."""
    found = {}
    for check in (False, True):
        model = seeded(plain_net)
        variant = make("ae_sam", model)
        passes = [
            _step(variant, model, x, y, rank, sync_perturbation=False, check_finite=check)
            for x, y in batches(12, seed=5)
        ]
        found[f"passes {check}"] = [len(r.outputs) < r.forward_samples for r in passes]
        found[f"weights {check}"] = problems.weights(model)
    state = dict(variant.memory)
    x, y = (t[rank * 8 :][:8] for t in DATA[0])
    oracle = GradientOracle(
        model,
        x,
        y,
        poisoned(1) if rank else loss_fn,
        ddp=dist.group.WORLD,
        sync_perturbation=False,
        check_finite=True,
    )
    found["skipped"] = variant.step(oracle).skipped and variant.memory == state
    found["weights after"] = problems.weights(model)
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    file = tmp_path_factory.mktemp("ddp") / "store"
    mp.spawn(_process, (str(file),), nprocs=2)
    return [torch.load(f"{file}.{rank}", weights_only=False) for rank in range(2)]


def one(name: str, count: int = 5, **knobs: object) -> torch.Tensor:
    model = seeded(plain_net)
    problems.train(make(name, model, **knobs), model, DATA[:count])
    return problems.weights(model)


def same(two, key, expected):
    assert torch.equal(two[0][key], two[1][key])
    torch.testing.assert_close(two[0][key], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("case", SYNCHRONISED)
def test_two_processes_are_one(two, case):
    model = seeded(plain_net)
    name, knobs = SYNCHRONISED[case]
    variant = make(name, model, **knobs)
    results = [variant.step(GradientOracle(model, x, y, loss_fn)) for x, y in DATA]
    same(two, ("synchronised", case), problems.weights(model))
    for result, *parts in zip(results, *(found["samples", case] for found in two), strict=True):
        of_all = [sum(own) for own in zip(*parts, strict=True)]
        assert of_all == [result.forward_samples, result.backward_samples]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["esam few", "k_sam one"])
def test_a_process_may_have_none_of_the_chosen_samples(two, case):
    clean = {"esam few": 1, "k_sam one": 0}[case]
    halves = [HALF[len(x)] for x, _ in DATA]
    backward = [[b for _, b in found["samples", case]] for found in two]
    assert any(
        own == clean * half for part in backward for own, half in zip(part, halves, strict=True)
    )


@pytest.mark.slow
def test_without_synchronisation_each_chooses_from_its_own(two):
    assert two[0]["own"] == two[1]["own"] == [8 + 1] * 4


@pytest.mark.slow
@pytest.mark.parametrize("name", UNSYNCHRONISED)
def test_without_synchronisation_it_is_m_sharpness(two, name):
    model = seeded(plain_net)
    variant = make(name, model)
    for x, y in DATA:
        variant.m = HALF[len(x)]
        variant.step(GradientOracle(model, x, y, loss_fn))
    same(two, ("unsynchronised", name), problems.weights(model))
    if "chunks" in variant.memory:
        for process, chunk in zip(two, variant.memory["chunks"], strict=True):
            mine = {k: v for k, v in process["state", name].items() if k in chunk}
            torch.testing.assert_close(mine, chunk, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", UNEVEN)
def test_processes_count_by_their_samples(two, name):
    same([found["uneven"] for found in two], name, one(name))


@pytest.mark.slow
def test_no_process_normalises_a_single_sample(two):
    sizes = [size for found in two for case in found["least"] for size in case]
    assert 1 not in sizes and {0, 2, 3} <= set(sizes)


@pytest.mark.slow
def test_chunks_stay_within_a_process(two):
    same(two, "chunks", one("sam", 4, m=4))


@pytest.mark.slow
def test_an_overflow_in_one_process_skips_the_step_in_both(two):
    never = seeded(plain_net)
    problems.train(make("sam", never), never, DATA[1:3])
    for skipped, scale, weights in (two[0]["overflow"], two[1]["overflow"]):
        assert skipped and scale == 2.0**8
        torch.testing.assert_close(weights, problems.weights(never), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_processes_may_decide_on_different_numbers_of_passes(two):
    mine, other = two[0]["deciding"], two[1]["deciding"]
    assert mine["passes True"] != other["passes True"]
    for found in (mine, other):
        assert found["passes True"] == found["passes False"]
        assert torch.equal(found["weights True"], found["weights False"])
        assert found["skipped"] and torch.equal(found["weights after"], found["weights True"])
    assert torch.equal(mine["weights True"], other["weights True"])


def test_a_wrapped_model_is_refused():
    wrapped = object.__new__(nn.parallel.DistributedDataParallel)
    with pytest.raises(TypeError, match=r"give GradientOracle model\.module"):
        GradientOracle(wrapped, torch.zeros(1), torch.zeros(1), loss_fn)
