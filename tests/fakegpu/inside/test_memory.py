"""Memory on a GPU: it returns between trials, and too little of it is `oom`."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from gpu import run, setting

from samtune.record.outcome import failure
from trainables import loop, steps

MEMORY_ALLOCATION = 2
"""cudaErrorMemoryAllocation."""


def in_use() -> int:
    """Return the bytes that are in use once a pass has ended, the least of three looks.

    The thread that runs backward passes may keep the tensors of a pass, and its error, after the
    training has them. It lets go of them before its next pass.
    """
    found = []
    for _ in range(3):
        torch.zeros(1, device="cuda", requires_grad=True).sum().backward()
        gc.collect()
        found.append(torch.cuda.memory_allocated())
    return min(found)


@contextmanager
def limited(extra: int) -> Iterator[None]:
    """Let cudaMalloc refuse what is beyond today's memory and `extra` bytes."""
    # What is only garbage could be used again, and nothing would be refused.
    gc.collect()
    torch.cuda.empty_cache()
    limit, before = setting("fake_limit"), setting("fake_limit").value
    limit.value = setting("fake_used").value + extra
    try:
        yield
    finally:
        limit.value = before


def test_memory_returns_after_each_of_five_trials() -> None:
    run("sgd", 1)
    first = in_use()
    for name in ("sam", "gam", "bayesian_sam", "look_sam", "adamw"):
        run(name, 1)
        assert in_use() == first, name


@pytest.mark.parametrize("where", ["forward", "backward", "optimizer", "evaluation"])
def test_too_little_memory_is_oom_and_the_next_trial_runs(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("sgd", 1)
    before = in_use()
    huge = 1 << 40

    def refused(*_: object, **__: object) -> object:
        return torch.empty(huge, dtype=torch.uint8, device="cuda")

    match where:
        case "forward":
            monkeypatch.setattr(steps, "cross_entropy", lambda smoothing: refused)
        case "backward":

            class Refused(torch.autograd.Function):
                @staticmethod
                def forward(ctx, losses):
                    return losses.clone()

                backward = staticmethod(refused)

            real = steps.cross_entropy
            monkeypatch.setattr(
                steps, "cross_entropy", lambda s: lambda *given: Refused.apply(real(s)(*given))
            )
        case "optimizer":
            monkeypatch.setattr(torch.optim.SGD, "step", refused)
        case "evaluation":
            monkeypatch.setattr(loop, "evaluate", refused)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        run("sgd", 1)
    problem = failure(caught.value)
    assert problem is not None and problem["cause"] == "oom"
    del caught
    assert in_use() == before
    monkeypatch.undo()
    run("sgd", 1)
    assert in_use() == before


def test_memory_that_the_device_refuses_is_oom() -> None:
    run("sgd")
    with limited(1 << 20), pytest.raises(torch.OutOfMemoryError) as caught:
        run("sgd", 1)
    problem = failure(caught.value)
    assert problem is not None and problem["cause"] == "oom"


def test_a_kernel_or_a_library_without_memory_is_oom() -> None:
    """GPU defect 8. Torch raises no OutOfMemoryError for these."""
    setting("fake_launches_before_error").value = 5000
    setting("fake_launch_error").value = MEMORY_ALLOCATION
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        run("sgd", 100)
    problem = failure(caught.value)
    assert problem is not None and problem["cause"] == "oom"
    status = setting("fake_cublas_status")
    status.value = 3
    try:
        with pytest.raises(RuntimeError, match="CUBLAS_STATUS_ALLOC_FAILED") as caught:
            torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")
    finally:
        status.value = 0
    problem = failure(caught.value)
    assert problem is not None and problem["cause"] == "oom"
