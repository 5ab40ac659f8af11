"""BatchNorm over the whole batch of a trial that spreads its batch over processes.

torch's own SyncBatchNorm runs on GPUs only, and gives ranks with unequal parts equal weight.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainables.models.parts import is_batch_norm


class SharedNorm:
    """A switch that makes a model's BatchNorm layers use the statistics of all ranks' samples.

    The layers keep their class, also in checkpoints. Each training pass then makes two reductions
    per layer, so all ranks have to make the same passes. Mean and variance are those of all
    samples together, however they are spread, and so is the gradient once the oracle has averaged
    it by samples.
    """

    def __init__(self, model: nn.Module, group: dist.ProcessGroup) -> None:
        self._norms = [module for module in model.modules() if is_batch_norm(module)]
        self._group = group
        self.on = True
        for norm in self._norms:
            vars(norm)["forward"] = partial(self._forward, norm, norm.forward)

    @property
    def on(self) -> bool:
        """True if the layers use the samples of all ranks."""
        return self._on

    @on.setter
    def on(self, on: bool) -> None:
        self._on = on
        for norm in self._norms:
            # The oracle reads this attribute of SyncBatchNorm to find the least samples of a rank.
            vars(norm).pop("process_group", None)
            if on:
                vars(norm)["process_group"] = self._group

    def _forward(self, norm: Any, alone: Any, x: Tensor) -> Tensor:
        statistics = norm.training or norm.running_mean is None
        if not (self.on and statistics):
            result: Tensor = alone(x)
            return result
        shape = [1, -1] + [1] * (x.dim() - 2)
        dims = [d for d in range(x.dim()) if d != 1]
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        # Values per channel, of all ranks.
        count = torch.full((), x.numel() / x.shape[1], dtype=values.dtype, device=x.device)
        dist.all_reduce(count, group=self._group)
        mean = _Sum.apply(values.sum(dims), len(x), self._group) / count
        centred = values - mean.view(shape)
        variance = _Sum.apply((centred * centred).sum(dims), len(x), self._group) / count
        if norm.training and norm.running_mean is not None:
            _move(norm, mean.detach(), variance.detach() * (count / (count - 1).clamp(min=1)))
        found = centred * torch.rsqrt(variance + norm.eps).view(shape)
        if norm.weight is not None:
            found = found * norm.weight.view(shape) + norm.bias.view(shape)
        normalised: Tensor = found.to(x.dtype)
        return normalised


@torch.no_grad()
def _move(norm: Any, mean: Tensor, variance: Tensor) -> None:
    norm.num_batches_tracked.add_(1)
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), share)


class _Sum(torch.autograd.Function):
    """The sum over ranks.

    Each rank's loss is the mean over its own samples and its gradient counts by their number, so
    the gradients that come back from other ranks are brought to the same unit.
    """

    @staticmethod
    def forward(ctx: Any, mine: Tensor, samples: int, group: dist.ProcessGroup) -> Tensor:
        ctx.samples, ctx.group = samples, group
        total = mine.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        total = gradient * ctx.samples
        dist.all_reduce(total, group=ctx.group)
        return total / ctx.samples, None, None
