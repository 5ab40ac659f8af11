"""The first-order oracle: what a variant may ask about the loss, at the current weights."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.optimizers.tensors import Gradients, alike, global_norm

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
        self.ddp = ddp
        self.replay_rng = replay_rng
        self.forward_samples = 0
        self.backward_samples = 0
        self.loss: Tensor | None = None
        self.outputs: Tensor | None = None
        self.sample_losses: Tensor | None = None
        self._before: _Buffers | None = None
        self._after: _Buffers | None = None
        self._random: list[Tensor] | None = None
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
                self._average([p.grad for p in parameters], index)
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

    def chunks(self, m: int) -> Iterator[GradientOracle]:
        """The batch in parts of nearly m samples, each an oracle with a clean pass of its own.

        To be used up in order. BatchNorm sees each part by itself, as with micro-batches. The
        clean passes together are this oracle's; non-finite ones end the step after the last part.
        """
        count = math.ceil(len(self) / m)
        parts = []
        self._averages = False
        if self.check_finite:
            self._before = _Buffers(self.model)
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
        least = float(len(self))
        if self.ddp is not None:
            found = torch.tensor(least, device=self.inputs.device)
            dist.all_reduce(found, dist.ReduceOp.MIN, self.ddp)
            least = found.item()
        count = min(count, int(least))
        each, extra = divmod(len(self), count)
        sizes = [each + (part < extra) for part in range(count)]
        shares = [size / len(self) for size in sizes]
        if self.ddp is not None:
            of_all = torch.tensor(sizes, dtype=torch.float32, device=self.inputs.device)
            dist.all_reduce(of_all, group=self.ddp)
            shares = (of_all / of_all.sum()).tolist()
        ends = itertools.accumulate(sizes)
        return [
            (slice(end - size, end), share)
            for end, size, share in zip(ends, sizes, shares, strict=True)
        ]

    def shared(self, direction: Gradients) -> Gradients:
        """The direction for all processes: the average of theirs, unless they agree already."""
        if not self._averages:
            self._average(direction)
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
                loss = each.mean() if len(x) == total else each.sum() / total
                torch.autograd.backward(
                    loss if self.scaler is None else self.scaler.scale(loss), inputs=wanted
                )
                self.backward_samples += len(x)
            losses.append(each.detach())
            outputs.append(out.detach())
        self.sample_losses = losses[0] if len(losses) == 1 else torch.cat(losses)
        mean = self.sample_losses.mean()
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
            if self.check_finite and not self._is_part:
                self._before = _Buffers(self.model)
            if self.replay_rng:
                self._random = _get_random_state(self.inputs.device)
            yield
            return
        self._after = self._after or _Buffers(self.model)
        random = _get_random_state(self.inputs.device) if self._random else None
        try:
            if self._random:
                _set_random_state(self.inputs.device, self._random)
            yield
        finally:
            self._after.restore()
            if random:
                _set_random_state(self.inputs.device, random)

    def _average(self, tensors: Gradients, index: Index | None = None) -> None:
        """Over the processes, in the shares of their samples, in place."""
        if self.ddp is None:
            return
        groups = alike(t for t in tensors if t is not None)
        samples = len(self.targets if index is None else self.targets[index])
        for group in groups:
            dtype = torch.promote_types(group[0].dtype, torch.float32)
            count = torch.full((), samples, dtype=dtype, device=group[0].device)
            dist.all_reduce(count, group=self.ddp)
            torch._foreach_mul_(group, samples / count)
            flat = torch.cat([t.reshape(-1) for t in group])
            dist.all_reduce(flat, group=self.ddp)
            parts = torch.split(flat, [t.numel() for t in group])
            averages = [part.view(t.shape) for part, t in zip(parts, group, strict=True)]
            torch._foreach_copy_(group, averages)

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
        if not self._is_part:
            self._raise_unless_finite()

    def _raise_unless_finite(self) -> None:
        if not self._finite:
            return
        broken = (~torch.stack(self._finite).all()).float()
        if self.ddp is not None:
            dist.all_reduce(broken, dist.ReduceOp.MAX, self.ddp)
        if broken.item():
            if self.ddp is not None:
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


class _Buffers:
    """A model's buffers at one moment, objects and contents: some modules assign a new tensor."""

    def __init__(self, model: nn.Module) -> None:
        self._places = [
            (module._buffers, name, buffer)
            for module in model.modules()
            for name, buffer in module._buffers.items()
        ]
        self._groups = alike({id(b): b for _, _, b in self._places if b is not None}.values())
        self._contents = [[torch.empty_like(b) for b in group] for group in self._groups]
        for contents, group in zip(self._contents, self._groups, strict=True):
            torch._foreach_copy_(contents, group)

    @torch.no_grad()
    def restore(self) -> None:
        for owner, name, buffer in self._places:
            owner[name] = buffer
        for contents, group in zip(self._contents, self._groups, strict=True):
            torch._foreach_copy_(group, contents)


def _get_random_state(device: torch.device) -> list[Tensor]:
    if device.type == "cpu":
        return [torch.get_rng_state()]
    which = () if device.type == "mps" else (device,)
    return [torch.get_rng_state(), torch.get_device_module(device).get_rng_state(*which)]


def _set_random_state(device: torch.device, state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if device.type != "cpu":
        which = () if device.type == "mps" else (device,)
        torch.get_device_module(device).set_rng_state(state[1], *which)
