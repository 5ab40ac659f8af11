"""Counts of the GPU work of an optimizer step, made without a GPU.

The step runs on fake CUDA tensors (`FakeTensorMode`), which have shapes, a device and no contents;
a `TorchDispatchMode` sees each operator and counts

- launches: one per operator; for foreach and fused operators, as many as ATen's
  `multi_tensor_apply` makes;
- words: 4-byte words of the operator's inputs and outputs;
- host synchronisations: values fetched by the host, shapes that depend on values, and blocking
  copies between devices;
- bytes: storage that is alive after an operator, at the peak.

Temporary memory inside an operator is not counted, and an operator that runs several kernels
counts as one. So the counts are lower bounds for such operators (`torch.topk`), and exact for
elementwise ones.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from statistics import fmean
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, is_tensor, nn

# torch has no public names for these. Only benchmarks and tests depend on them.
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from benchmarks.contenders import Contender, Problem
from samtune.optimizers import Variant

# ATen/native/cuda/MultiTensorApply.cuh, where kernel arguments are limited to 4 KB. Builds for
# CUDA 13 have larger tables and need fewer launches, never more.
CHUNK = 65536
MAX_BLOCKS = 320
MAX_TENSORS = (110, 64, 48, 36, 30)
MAX_TENSORS_WITH_SCALARS = (96, 64, 48, 36, 30)

# A reduction over lists also sets its partial results to zero and sums them up.
_REDUCTION_LAUNCHES = 2
_REDUCTIONS = {"_foreach_norm", "_foreach_max", "_foreach_powsum"}
_CONCATENATED_AT_ONCE = 128

# Views whose schemas do not say so.
_SAME_MEMORY = {"lift_fresh", "_unsafe_view", "_reshape_alias"}
_NO_KERNEL = _SAME_MEMORY | {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
}
_WRITE_ONLY = {
    "copy_",
    "fill_",
    "zero_",
    "normal_",
    "uniform_",
    "bernoulli_",
    "random_",
    "_foreach_copy_",
    "_foreach_zero_",
}
_VALUE_DEPENDENT = {"nonzero", "masked_select", "equal", "_unique2", "unique_dim", "bincount"}


PROMISED: dict[str, float] = {
    "sgd": 0,
    "adamw": 0,
    "sam": 1,
    "asam": 1,
    "esam": 1,
    "gsam": 2,
    "fisher_sam": 1,
    "bayesian_sam": 6,
    "friendly_sam": 3,
    "look_sam": 3,
    "look_layer_sam": 3,
    "wsam": 2,
    "momentum_sam": 1,
    "vasso": 3,
    "stable_sam": 1,
    "unified_sam": 1,
    "ae_sam": 1,
    "sparse_sam": 2,
    "cr_sam": 3,
    "gam": 5,
    "k_sam": 1,
    "lookbehind_sam": 3,
}
"""Extra copies of the model by `docs/reference/variants.md`, persistent and transient.

Bayesian SAM keeps s and the momentum, which other variants leave to the base optimizer. Friendly
SAM and VaSSO need 2, and the old mean for a step that fails in its last pass. At w + eps neither
the old mean nor the new one can be computed, so 3 is the least."""


@dataclass
class Counts:
    """The cost of the steps counted so far."""

    launches: int = 0
    words: float = 0.0
    syncs: int = 0
    passes: int = 0
    """Number of times that gradients or losses were supplied."""
    by_operator: dict[str, int] = field(default_factory=dict)
    """Launches by operator."""


class StepCounter(TorchDispatchMode):
    """A counter of every operator in the block, except those under `handing_out()`.

    `counts` may be replaced at any time by new `Counts()`. `live_bytes` and `peak_bytes` cover the
    storages allocated since the counter was entered. The counter works on fake tensors only. Fused
    optimizers have no fake kernels, so they are counted but not run. Each value that the host
    fetches is 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self.live_bytes = 0
        self.peak_bytes = 0
        self._paused = False

    @contextmanager
    def handing_out(self) -> Iterator[None]:
        """Allocate gradients in the block, uncounted, in place of a pass over the model."""
        self.counts.passes += 1
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        if func.namespace != "aten":
            return func(*args, **kwargs)
        name: str = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            self.counts.syncs += not self._paused and args[0].device.type != "cpu"
            return args[0].dtype is torch.bool or (1.0 if args[0].is_floating_point() else 1)
        out = None if name.startswith("_fused_") else func(*args, **kwargs)
        new = all(r.alias_info is None for r in func._schema.returns)
        if new and name not in _SAME_MEMORY:
            self._watch(out)
        if not self._paused:
            call = _Call(func, name, args, kwargs, out)
            launches = call.launches()
            self.counts.launches += launches
            self.counts.words += call.words()
            self.counts.syncs += call.synchronises()
            if launches:
                seen = self.counts.by_operator
                seen[name] = seen.get(name, 0) + launches
        return out

    def _watch(self, out: object) -> None:
        for t in tree_iter(out):
            if isinstance(t, Tensor):
                storage = t.untyped_storage()
                self.live_bytes += storage.nbytes()
                weakref.finalize(storage, self._forget, storage.nbytes()).atexit = False
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _forget(self, size: int) -> None:
        self.live_bytes -= size


@dataclass
class _Call:
    """One operator with its inputs and outputs."""

    func: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: object

    def launches(self) -> int:
        if self.func.is_view or self.name in _NO_KERNEL or not self._on_device():
            return 0
        if self.name.startswith("_foreach_"):
            return self._foreach_launches()
        if self.name.startswith("_fused_"):
            lists = [v for a, v in self._tensor_arguments() if v and a.name != "state_steps"]
            return packed([t.numel() for t in lists[0]], MAX_TENSORS[len(lists) - 1])
        if self.name in ("cat", "stack"):
            return ceil(len(self.args[0]) / _CONCATENATED_AT_ONCE)
        return 1

    def words(self) -> float:
        if self.func.is_view or self.name in _NO_KERNEL or not self._on_device():
            return 0.0
        total, written = 0, False
        for argument, tensors in self._tensor_arguments():
            size = sum(_bytes(t) for t in tensors)
            writes = argument.alias_info is not None and argument.alias_info.is_write
            written = written or writes
            # The schema marks the gradients as written, because scaled ones are. These are only
            # read.
            if writes and self.name.startswith("_fused_") and argument.name == "grads":
                writes = False
            reads = not (writes and (argument.is_out or self.name in _WRITE_ONLY))
            total += size * (writes + reads)
        if not written:
            total += sum(_bytes(t) for t in tree_iter(self.out) if isinstance(t, Tensor))
        return total / 4

    def synchronises(self) -> bool:
        if not self._on_device():
            return False
        if self.name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            return any(t is not None and t.dtype is torch.bool for t in self.args[1])
        if self.name in ("_to_copy", "copy_"):
            devices = {t.device for t in self._tensors()}
            given = self.kwargs.get("non_blocking", self.args[2:3] == (True,))
            return len(devices) > 1 and not given
        return self.name in _VALUE_DEPENDENT

    def _foreach_launches(self) -> int:
        lists = [v for a, v in self._tensor_arguments() if "List" in str(a.type) and v]
        if not _together(lists):
            return len(lists[0])
        if self.name in _REDUCTIONS:
            return packed([t.numel() for t in lists[0]], MAX_TENSORS[0]) + _REDUCTION_LAUNCHES
        if isinstance(self.out, (list, tuple)) and not self.name.endswith("_"):
            lists.append(list(self.out))
        scalars = "ScalarList" in self.func._overloadname
        table = MAX_TENSORS_WITH_SCALARS if scalars else MAX_TENSORS
        return packed([t.numel() for t in lists[0]], table[len(lists) - 1])

    def _tensor_arguments(self) -> Iterator[tuple[Any, list[Tensor]]]:
        for i, argument in enumerate(self.func._schema.arguments):
            value = self.args[i] if i < len(self.args) else self.kwargs.get(argument.name)
            tensors = [t for t in tree_iter(value) if isinstance(t, Tensor)]
            if tensors:
                yield argument, tensors

    def _tensors(self) -> Iterator[Tensor]:
        yield from (t for _, tensors in self._tensor_arguments() for t in tensors)
        yield from (t for t in tree_iter(self.out) if isinstance(t, Tensor))

    def _on_device(self) -> bool:
        return any(t.device.type != "cpu" for t in self._tensors())


def packed(sizes: Sequence[int], max_tensors: int) -> int:
    """Return the launches that `multi_tensor_apply` makes for tensors of these sizes."""
    launches = tensors = blocks = 0
    for size in sizes:
        tensors += size > 0
        chunks = ceil(size / CHUNK)
        for chunk in range(chunks):
            blocks += 1
            last = chunk == chunks - 1
            if blocks == MAX_BLOCKS or (last and tensors == max_tensors):
                launches += 1
                blocks, tensors = 0, 0 if last else 1
    return launches + (blocks > 0)


def _together(lists: Sequence[Sequence[Tensor]]) -> bool:
    """Return whether foreach takes these lists at once, by ATen/native/ForeachUtils.h.

    Otherwise it processes them tensor by tensor.
    """
    first = lists[0][0]
    return all(
        t.dtype == first.dtype
        and t.device == first.device
        and _dense(t)
        and (t.shape, t.stride()) == (row[0].shape, row[0].stride())
        for row in zip(*lists, strict=True)
        for t in row
    )


def _dense(t: Tensor) -> bool:
    span = 1 + sum((n - 1) * stride for n, stride in zip(t.shape, t.stride(), strict=True))
    return span == t.numel() or t.numel() == 0


def _bytes(t: Tensor) -> int:
    size = t.element_size()
    for length, stride in zip(t.shape, t.stride(), strict=True):
        size *= length if stride else 1
    return size


@dataclass(frozen=True)
class Cost:
    """The cost of a contender's step; means and maxima are over its cycle of steps."""

    launches: float
    """Per step, mean."""
    most_launches: int
    """Launches of the step with the most."""
    words: float
    """Words read and written per parameter, mean."""
    syncs: float
    """Waits of the host, mean."""
    passes: int
    """Passes of the step with the most, over the batch or a part of it."""
    copies: float
    """Peak memory beyond weights, one set of gradients and the base's state, in model copies."""
    by_operator: dict[str, int]
    """Launches by operator, in the step with the most."""


def without_contents(build: Callable[[], nn.Module]) -> Problem:
    """Return a problem of fake CUDA tensors, which any number of contenders may use."""
    with torch.device("meta"):
        model = build()
    with FakeTensorMode(allow_non_fake_inputs=True):
        return Problem(model.to_empty(device="cuda"), "cuda")


@contextmanager
def _no_generators() -> Iterator[None]:
    # A generator on CUDA needs a driver. Fake draws take any generator.
    with patch.object(Variant, "generator", lambda *_, **__: torch.Generator()):
        yield


def counted(problem: Problem, contender: Callable[[Problem], Contender]) -> Cost:
    """Return the cost of a contender on a problem of fake tensors."""
    assert isinstance(problem.losses, FakeTensor)
    with problem.losses.fake_mode, _no_generators(), StepCounter() as counter:
        it = contender(problem)
        # The first step makes the state.
        it.step(counter)
        counter.peak_bytes = 0
        steps = []
        for _ in range(it.cycle):
            counter.counts = Counts()
            it.step(counter)
            steps.append(counter.counts)
    weights = 4 * problem.size
    state = sum(_bytes(t) for t in tree_iter(list(it.base.state.values())) if is_tensor(t))
    most = max(steps, key=lambda c: c.launches)
    return Cost(
        fmean(c.launches for c in steps),
        most.launches,
        fmean(c.words for c in steps) / problem.size,
        fmean(c.syncs for c in steps),
        max(c.passes for c in steps),
        (counter.peak_bytes - state - weights) / weights,
        most.by_operator,
    )
