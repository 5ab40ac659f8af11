"""The first-order oracle: what a variant may ask about the loss, at the current weights."""

from __future__ import annotations

import copy
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.optimizers.processes import Processes
from samtune.optimizers.snapshot import Buffers, RandomState
from samtune.optimizers.tensors import Gradients, accumulate_, alike, global_norm

LossFunction = Callable[[Tensor, Tensor], Tensor]
Index = Tensor | slice


class NonFiniteError(ArithmeticError):
    """A pass gave a loss or a gradient that is not finite; `Variant.step` skips the step."""


class GradientOracle:
    """Losses and gradients of one mini-batch, asked for by `Variant.step`; one oracle a step.

    The first pass of a step is the *clean* one: it takes the whole batch, gives `loss` and
    `outputs`, and is the only one that moves the model's buffers, so that BatchNorm sees one
    update a step. Later passes draw the same dropout masks, and leave every buffer and the random
    generators as they found them.

    Args:
        model: called as `model(inputs)`, in the mode (train or eval) that it is in.
        inputs: a tensor, shape (b, ...).
        targets: a tensor, shape (b, ...).
        loss_fn: `loss_fn(outputs, targets)` -> per-sample losses, shape (b,).
        micro_batch: samples per forward and backward; the gradients of the parts are summed, so
            a step equals the whole batch's (but BatchNorm normalises each part by itself).
        check_finite: skip the step when a pass gives a non-finite loss or gradient, with weights,
            buffers and state as before it. Costs one host synchronisation a pass.
        autocast: compute dtype of the forward passes; the parameters stay as they are.
        scaler: loss scaling for `autocast=torch.float16`; implies `check_finite`. Gradients come
            back unscaled, and the scale is updated once a step.
        ddp: the processes that share the batch, each of which holds a part and the plain model
            (not wrapped: the oracle averages gradients itself, by samples). Every process then
            makes the same step; losses and outputs are of its own part. A gradient may be missing
            (None) only in all of them. BatchNorm sees one part; SyncBatchNorm all.
        sync_perturbation: False lets each process perturb by its own part's gradient and averages
            the directions alone: m-sharpness with m = b / processes, one reduction a step. The
            `state` of a variant then differs between processes, and each saves its own. Chunks of
            a variant's `m` are always taken within a process.
        replay_rng: False draws new dropout masks in every pass. Passes over part of the batch
            replay the generator's state, not each sample's mask.

    A variant that chooses samples (ESAM, K-SAM) chooses from the batch of all processes, or
    without `sync_perturbation` each from its own. A process that has none of those chosen runs the
    model on an empty batch, to join the reductions that may be in it.

    After a step `forward_samples` and `backward_samples` hold its cost, and `sample_losses` the
    per-sample losses of the last pass.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        loss_fn: LossFunction,
        *,
        micro_batch: int | None = None,
        check_finite: bool = False,
        autocast: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        ddp: dist.ProcessGroup | None = None,
        sync_perturbation: bool = True,
        replay_rng: bool = True,
    ) -> None:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise TypeError(
                "the model is wrapped in DistributedDataParallel, which would average each pass "
                "by itself; give GradientOracle model.module, with ddp=the process group"
            )
        if len(inputs) == 0 or len(inputs) != len(targets):
            raise ValueError(
                f"a batch needs as many targets as inputs, and at least one: "
                f"got {len(inputs)} inputs and {len(targets)} targets"
            )
        if micro_batch is not None and micro_batch < 1:
            raise ValueError(f"micro_batch is {micro_batch}; it counts samples, so 1 or more")
        self.model = model
        self.inputs = inputs
        self.targets = targets
        self.loss_fn = loss_fn
        self.micro_batch = micro_batch
        self.autocast = autocast
        self.scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self.check_finite = check_finite or self.scaler is not None
        self._processes = Processes(ddp)
        self.replay_rng = replay_rng
        self.forward_samples = 0
        self.backward_samples = 0
        self.loss: Tensor | None = None
        self.outputs: Tensor | None = None
        self.sample_losses: Tensor | None = None
        self._before: Buffers | None = None
        self._after: Buffers | None = None
        self._random: RandomState | None = None
        self._probes: list[_Probe] = []
        self._finite: list[Tensor] = []
        self._is_part = False
        # Whether gradients are averaged over the processes as they come, or the direction is.
        self._averages = sync_perturbation

    def __len__(self) -> int:
        """Samples in the batch."""
        return len(self.inputs)

    def grad(self, parameters: Sequence[Tensor], index: Index | None = None) -> Gradients:
        """The gradient of the mean loss over the batch, or over its samples `index`.

        Returns new tensors that the caller may change, one per parameter, in its shape; None where
        the loss does not depend on the parameter. `.grad` is None afterwards.
        """
        for p in parameters:
            p.grad = None
        try:
            with self._pass(index), torch.enable_grad():
                loss = self._evaluate(index, parameters)
            if self._averages:
                # Before unscaling, so that all scalers see an overflow in one process.
                samples = len(self.targets if index is None else self.targets[index])
                self._processes.average_([p.grad for p in parameters], samples)
            self._unscale(parameters)
            # backward() and not autograd.grad: .grad is a tensor of its own in the parameter's
            # layout, where autograd.grad may return one tensor twice, or an expanded view.
            gradients = [p.grad for p in parameters]
        finally:
            for p in parameters:
                p.grad = None
        self._check(loss, gradients)
        return gradients

    def losses(self, index: Index | None = None) -> Tensor:
        """Per-sample losses, shape (b,) or (len(index),), detached; costs a forward pass."""
        with self._pass(index), torch.no_grad():
            loss = self._evaluate(index)
        self._check(loss, [])
        assert self.sample_losses is not None
        return self.sample_losses

    def mean_square(self, parameters: Sequence[Tensor], samples: int | None = None) -> Gradients:
        """The mean over the batch's first `samples`, by default all, of each one's own squared
        gradient: the diagonal of the empirical Fisher information.

        Costs a pass for each sample, and BatchNorm sees each by itself. Synchronised processes
        take the first of all samples, each those that it has.
        """
        shared, self._averages = self._averages, False
        processes = self._processes if shared else Processes(None)
        # All make as many passes, to join the reductions that may be in them.
        own, passes = processes.first(samples or sys.maxsize, len(self), self.inputs.device)
        total: Gradients = [None] * len(parameters)
        try:
            for i in range(passes):
                squares = self.grad(parameters, slice(i, min(i + 1, own)))
                for group in alike(g for g in squares if g is not None):
                    torch._foreach_mul_(group, group)
                accumulate_(total, squares, 1 / max(own, 1))
        finally:
            self._averages = shared
        if shared:
            self._processes.average_(total, own)
            self._raise_unless_finite()
        return total

    def chunks(self, m: int) -> Iterator[GradientOracle]:
        """The batch in parts of nearly m samples, each an oracle with a clean pass of its own.

        To be used up in order. BatchNorm sees each part by itself, as with micro-batches. The
        clean passes together are this oracle's; non-finite ones end the step after the last part.
        """
        count = math.ceil(len(self) / m)
        parts = []
        self._averages = False
        self._before = Buffers(self.model)
        for x, y in zip(
            self.inputs.tensor_split(count), self.targets.tensor_split(count), strict=True
        ):
            part = copy.copy(self)
            part.inputs, part.targets = x, y
            part.forward_samples = part.backward_samples = 0
            part._is_part, part._averages = True, False
            yield part
            self.forward_samples += part.forward_samples
            self.backward_samples += part.backward_samples
            parts.append(part)
        self.loss = torch.stack(
            [p.loss * (len(p) / len(self)) for p in parts if p.loss is not None]
        ).sum()
        self.outputs = torch.cat([p.outputs for p in parts if p.outputs is not None])
        self._raise_unless_finite()

    def parts(self, count: int) -> list[tuple[slice, float]]:
        """At most `count` parts of the batch, neighbours, and the share of the samples in each.

        Every process has as many, so that all make the same passes, and the same shares: a part
        is then the samples that all of them have in it.
        """
        of_all = self._processes.sizes(len(self), self.inputs.device)
        count = min(count, *of_all)
        samples = [sum(part) for part in zip(*(_split(n, count) for n in of_all), strict=True)]
        ends = list(itertools.accumulate(_split(len(self), count), initial=0))
        return [
            (slice(*ends_of), n / sum(of_all))
            for ends_of, n in zip(itertools.pairwise(ends), samples, strict=True)
        ]

    def largest(self, scores: Tensor, share: float) -> Tensor:
        """The ceil(share b) samples of the batch with the largest scores, at least one: indices.

        Synchronised processes choose from the batch of all: each gets those of its own, perhaps
        none, and waits for the device to learn how many.
        """
        processes = self._processes if self._averages else Processes(None)
        of_all, own = processes.joined(scores)
        places: Tensor = of_all.topk(max(1, math.ceil(share * len(of_all)))).indices
        if not processes.alone:
            places = places[(places >= own.start) & (places < own.stop)] - own.start
        return places

    def shared(self, direction: Gradients) -> Gradients:
        """The direction for all processes: the average of theirs, unless they agree already."""
        if not self._averages:
            self._raise_unless_finite()
            self._processes.average_(direction, len(self))
        return direction

    def rollback(self) -> None:
        """Puts the model's buffers back to where they were before the step."""
        if self._before is not None:
            self._before.restore()

    def finish(self) -> None:
        """Ends the step: a loss scaler learns whether any of its passes overflowed."""
        if self.scaler is not None and self._probes:
            self.scaler.update()
            self._probes.clear()

    def _evaluate(self, index: Index | None, parameters: Sequence[Tensor] | None = None) -> Tensor:
        """The mean loss; with parameters also its gradient, into their `.grad`."""
        # Given its ends, a backward pass leaves out what no one asked for.
        wanted = [p for p in parameters if p.requires_grad] if parameters else None
        inputs = self.inputs if index is None else self.inputs[index]
        targets = self.targets if index is None else self.targets[index]
        total = len(inputs)
        size = self.micro_batch or total
        losses, outputs = [], []
        for x, y in zip(torch.split(inputs, size), torch.split(targets, size), strict=True):
            with self._autocast():
                out = self.model(x)
                each = self.loss_fn(out, y)
            if each.shape != (len(x),):
                raise ValueError(
                    f"loss_fn returned shape {tuple(each.shape)} for {len(x)} samples; it must "
                    f'return one loss per sample, shape ({len(x)},): give it reduction="none"'
                )
            each = each.to(torch.promote_types(each.dtype, torch.float32))
            self.forward_samples += len(x)
            if wanted:
                # Of no samples the mean is NaN, and is to be 0.
                loss = each.mean() if 0 < len(x) == total else each.sum() / max(total, 1)
                torch.autograd.backward(
                    loss if self.scaler is None else self.scaler.scale(loss), inputs=wanted
                )
                self.backward_samples += len(x)
            losses.append(each.detach())
            outputs.append(out.detach())
        self.sample_losses = losses[0] if len(losses) == 1 else torch.cat(losses)
        mean = self.sample_losses.mean() if total else self.sample_losses.sum()
        if self.loss is None:
            self.loss = mean
            self.outputs = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return mean

    @contextmanager
    def _pass(self, index: Index | None) -> Iterator[None]:
        # Inside a caller's own autocast block, casts of the weights at an earlier point survive.
        torch.clear_autocast_cache()
        if self.loss is None:
            if index is not None:
                raise ValueError(
                    "the first pass of a step is the clean one and takes the whole batch; "
                    "call grad(parameters) or losses() before asking for part of it"
                )
            if not self._is_part:
                self._before = Buffers(self.model)
            if self.replay_rng:
                self._random = RandomState(self.inputs.device)
            yield
            return
        self._after = self._after or Buffers(self.model)
        random = RandomState(self.inputs.device) if self._random else None
        try:
            if self._random:
                self._random.restore()
            yield
        finally:
            self._after.restore()
            if random:
                random.restore()

    def _unscale(self, parameters: Sequence[Tensor]) -> None:
        if self.scaler is None:
            return
        # unscale_ takes each optimizer once between updates, and a step has several passes.
        probe = _Probe([{"params": list(parameters)}])
        self.scaler.unscale_(cast(torch.optim.Optimizer, probe))
        # The scaler knows it by its id, so it has to live until the update.
        self._probes.append(probe)

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.inputs.device.type, self.autocast)

    def _check(self, loss: Tensor, gradients: Gradients) -> None:
        if not self.check_finite:
            return
        finite = torch.isfinite(loss)
        if gradients:
            finite = finite & torch.isfinite(global_norm(gradients)).to(loss.device)
        self._finite.append(finite)
        # Without synchronisation another process may make fewer passes, and would not answer.
        if self._averages or (self._processes.alone and not self._is_part):
            self._raise_unless_finite()

    def _raise_unless_finite(self) -> None:
        if not self._finite:
            return
        broken = (~torch.stack(self._finite).all()).float()
        self._finite.clear()
        self._processes.most_(broken)
        if broken.item():
            if not self._processes.alone:
                self._tell_scaler(broken.device)
            raise NonFiniteError("a loss or gradient is not finite")

    def _tell_scaler(self, device: torch.device) -> None:
        """Of an overflow that may have come up in another process: all scales stay equal."""
        overflow = torch.zeros((), device=device)
        overflow.grad = torch.full((), torch.inf, device=device)
        self._unscale([overflow])


@dataclass(eq=False)
class _Probe:
    """All that `GradScaler.unscale_` reads of an optimizer."""

    param_groups: list[dict[str, list[Tensor]]]


def _split(length: int, count: int) -> list[int]:
    """Sizes of `count` parts, as even as can be."""
    each, extra = divmod(length, count)
    return [each + (part < extra) for part in range(count)]
