"""The first-order oracle: losses and gradients of one batch, at the current weights."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from samtune.optimizers import sizes
from samtune.optimizers.batch import Batch, Index, detached, joined
from samtune.optimizers.buffers import Buffers, release, snapshot
from samtune.optimizers.cosine import Cosine
from samtune.optimizers.finite import FiniteCheck
from samtune.optimizers.passes import (
    Forward,
    LossFunction,
    check_model,
    differentiate,
    per_sample,
    too_few_explained,
)
from samtune.optimizers.processes import Processes
from samtune.optimizers.randomness import Replay, generators
from samtune.optimizers.reals import real
from samtune.optimizers.scaling import LossScaling
from samtune.optimizers.tensors import Gradients, accumulate_, alike, weighted_mean


class GradientOracle:
    """Losses and gradients of one mini-batch for `Variant.step`; each step needs a new oracle.

    The first pass of a step is the *clean* one. It takes the whole batch, gives `loss` and
    `outputs`, and is the only pass that changes buffers, so that BatchNorm sees one update per
    step. Later passes draw the same random numbers as the clean one (dropout masks), and leave
    every buffer and random generator as they found it. This covers the global generators of
    torch, Python and NumPy and those that a module has as an attribute. A loss that is a module
    is treated like the model.

    The gradients are those of `loss.backward()`, whatever the model does in it: hooks, custom
    autograd functions and both kinds of activation checkpointing. A hook that keeps a gradient
    must keep a copy, because the optimizer reuses the tensor.

    Inputs and targets are tensors or nested dicts, lists, tuples and dataclasses of tensors,
    which share their first dimension, the batch of b samples. Tensors without dimensions, those
    whose first dimension is 1, and values that are not tensors are the same for all samples. A
    dict goes to the model by keyword where `forward` takes its keys, a tuple by position where it
    takes as many; otherwise the model is called as `model(inputs)`.

    Args:
        model: the module, in train or eval mode as it is.
        inputs: the inputs of the model.
        targets: the targets of the loss; None if it needs none.
        loss_fn: `loss_fn(outputs, targets)`, with the model's outputs as they are, returns one
            loss per sample, shape (b,). A shape (b, ...) is averaged over the other dimensions.
        micro_batch: samples per forward and backward pass. Gradients of the parts are added, so
            the step equals that of the whole batch, but BatchNorm normalises each part by itself.
        check_finite: skip the step when a loss or gradient is not finite, with weights, buffers
            and state as before the step. Costs one host synchronisation per pass.
        autocast: dtype that the forward passes compute in; parameters keep theirs.
        scaler: loss scaling for `autocast=torch.float16`; implies `check_finite`. Gradients are
            unscaled, and the scale is updated once per step.
        ddp: the group of processes that share the batch. Each holds a part and the plain model:
            the oracle averages gradients itself, weighted by samples. Every process then makes
            the same step; losses and outputs are those of its own part. A gradient may be None
            only if it is None in all processes. BatchNorm sees one part, SyncBatchNorm all.
        sync_perturbation: False perturbs each process by the gradient of its own part and
            averages only the directions: m-sharpness with m = b / processes, one reduction per
            step. The `memory` of a variant then differs between processes, and each saves its own.
            Chunks of a variant's `m` always stay within a process.
        replay_rng: False draws new random numbers in every pass. A pass over a part of the batch
            replays the generator's state, not the mask of each sample.
        compare: compute `cosine`; a step then keeps one more copy of the gradient.

    If the model has BatchNorm in train mode, each part of a batch has at least two samples, the
    least that BatchNorm can normalise. A remainder of one joins the part before it.

    A variant that chooses samples (ESAM, K-SAM) chooses from the batch of all processes, or
    without `sync_perturbation` from its own part. A process without any chosen sample runs the
    model on an empty batch, to take part in reductions inside it.

    Attributes:
        loss: mean loss of the clean pass, shape ().
        outputs: outputs of the clean pass, detached.
        sample_losses: losses of the last pass, one per sample.
        sharp_loss: mean loss of the batch at the perturbed weights, shape (): that of the first
            pass over the whole batch after the clean one; None if there was none.
        cosine: with `compare`, the cosine of the clean gradient and the first later one of the
            whole batch, over the parameters that have both, shape (); None if there was none.
            With chunks, both are the mean over them.
        forward_samples: samples of all forward passes so far.
        backward_samples: samples of all backward passes so far.

    Raises:
        TypeError: the model is not a module, or is wrapped in DistributedDataParallel.
        ValueError: the batch is empty, or its tensors do not fit together.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        targets: Any,
        loss_fn: LossFunction,
        *,
        micro_batch: int | None = None,
        check_finite: bool = False,
        autocast: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        ddp: dist.ProcessGroup | None = None,
        sync_perturbation: bool = True,
        replay_rng: bool = True,
        compare: bool = False,
    ) -> None:
        check_model(model)
        if micro_batch is not None and micro_batch < 1:
            raise ValueError(f"micro_batch is {micro_batch}; it counts samples, so 1 or more")
        self.model = model
        self.batch = Batch.of(inputs, targets)
        self.loss_fn = loss_fn
        self.micro_batch = micro_batch
        self.autocast = autocast
        self.scaling = LossScaling(scaler)
        self.check_finite = check_finite or self.scaling.on
        self.replay_rng = replay_rng
        self.forward_samples = 0
        self.backward_samples = 0
        self.loss: Tensor | None = None
        self.outputs: Any = None
        self.sample_losses: Tensor | None = None
        self.sharp_loss: Tensor | None = None
        self.cosine: Tensor | None = None
        self._cosine = Cosine() if compare else None
        self._forward = Forward(model, inputs)
        roots = [model, loss_fn] if isinstance(loss_fn, nn.Module) else [model]
        self._modules = [module for root in roots for module in root.modules()]
        self._trained = [p for root in roots for p in root.parameters() if p.requires_grad]
        self._processes = Processes(ddp)
        self._finite = FiniteCheck(self._processes, self.scaling)
        self._before: Buffers | None = None
        self._after: Buffers | None = None
        self._replay: Replay | None = None
        self._is_part = False
        # If true, the gradients of each pass are averaged over the processes, else the directions.
        self._averages = sync_perturbation

    @property
    def inputs(self) -> Any:
        """The inputs of the model."""
        return self.batch.inputs

    @property
    def targets(self) -> Any:
        """The targets of the loss."""
        return self.batch.targets

    def __len__(self) -> int:
        """Return the number of samples in the batch."""
        return len(self.batch)

    def grad(self, parameters: Sequence[Tensor], index: Index | None = None) -> Gradients:
        """Return the gradient of the mean loss over the batch, or over its samples `index`.

        Args:
            parameters: the parameters of the gradient; `.grad` of each is None afterwards.
            index: samples of the batch, as integers or a slice.

        Returns:
            New dense tensors that the caller may change, one per parameter in its shape; None
            where the loss does not depend on the parameter.

        Raises:
            ValueError: no parameter requires a gradient, or the loss depends on none.
            NonFiniteError: with `check_finite`, a loss or gradient is not finite.
        """
        if not any(p.requires_grad for p in parameters):
            raise ValueError(
                "no parameter of the optimizer requires a gradient, so there is nothing to train; "
                "set requires_grad=True on those that should be trained"
            )
        for p in parameters:
            p.grad = None
        try:
            with self._pass(index), torch.enable_grad():
                loss = self._evaluate(index, parameters)
            for p in parameters:
                if p.grad is not None and p.grad.layout != torch.strided:
                    p.grad = p.grad.to_dense()
            if self._averages:
                # Before unscaling, so that all scalers see an overflow in one process.
                assert self.sample_losses is not None
                samples = len(self.sample_losses)
                self._processes.average_([p.grad for p in parameters], samples)
            self.scaling.unscale_(parameters)
            gradients = [p.grad for p in parameters]
        finally:
            for p in parameters:
                p.grad = None
        self._check(loss, gradients)
        if self._cosine is not None and index is None:
            self._cosine.add(parameters, gradients)
            self.cosine = self._cosine.value
        return gradients

    def losses(self, index: Index | None = None) -> Tensor:
        """Return the losses of the batch or of its samples `index`, at one forward pass.

        The result is detached, one number per sample.
        """
        with self._pass(index), torch.no_grad():
            loss = self._evaluate(index)
        self._check(loss, [])
        assert self.sample_losses is not None
        return self.sample_losses

    def mean_square(self, parameters: Sequence[Tensor], samples: int | None = None) -> Gradients:
        """Return the mean square of single samples' gradients: the diagonal empirical Fisher.

        The real and the imaginary part of a complex number are squared each by itself. Costs one
        pass per sample, and BatchNorm sees each sample by itself. Synchronised
        processes take the first samples of the common batch, others the first of their own part.

        Args:
            parameters: the parameters of the gradients.
            samples: how many samples of the batch to use; None uses all.
        """
        shared, self._averages = self._averages, False
        processes = self._processes if shared else Processes(None)
        # All processes make equally many passes, because the passes may contain reductions.
        own, passes = processes.first(samples or sys.maxsize, len(self), self.batch.device)
        total: Gradients = [None] * len(parameters)
        try:
            for i in range(passes):
                squares = self.grad(parameters, slice(i, min(i + 1, own)))
                for group in alike(real(g) for g in squares if g is not None):
                    torch._foreach_mul_(group, group)
                accumulate_(total, squares, 1 / max(own, 1))
        finally:
            self._averages = shared
        if shared:
            self._processes.average_(total, own)
            self._finite.settle()
        return total

    def chunks(self, m: int) -> Iterator[GradientOracle]:
        """Yield oracles of the batch's parts, of about m samples each and as equal as possible.

        Each part has a clean pass of its own, and BatchNorm sees it by itself. Use the parts in
        order. The clean passes together are this oracle's; one that is not finite ends the step
        after the last part.
        """
        count = sizes.most_parts(math.ceil(len(self) / m), len(self), self._least())
        counts = sizes.even(len(self), count)
        parts = []
        self._averages = False
        self._before = snapshot(self.model, self._modules)
        for batch in self.batch.split(counts):
            part = copy.copy(self)
            part.batch = batch
            part.forward_samples = part.backward_samples = 0
            part._is_part = True
            part._cosine = self._cosine and Cosine()
            yield part
            release(self.model, part._after)
            part._after = None
            self.forward_samples += part.forward_samples
            self.backward_samples += part.backward_samples
            parts.append(part)
        shares = [len(p) / len(self) for p in parts]
        self.loss = weighted_mean([p.loss for p in parts], shares)
        self.sharp_loss = weighted_mean([p.sharp_loss for p in parts], shares)
        self.cosine = weighted_mean([p.cosine for p in parts], shares)
        self.outputs = joined([part.outputs for part in parts], counts)
        self._finite.settle()

    def parts(self, count: int) -> list[tuple[slice, float]]:
        """Return at most `count` neighbouring parts of the batch, and the share of each.

        Every process has the same number of parts and the same shares, so that all make the same
        passes: a part is the samples that all processes have in it.
        """
        of_all = self._processes.sizes(len(self), self.batch.device)
        least, least_own = self._least(of_process=False), self._least()
        return sizes.common_parts(count, of_all, len(self), least, least_own)

    def largest(self, scores: Tensor, share: float) -> Tensor:
        """Return the indices of the ceil(share b) samples with the largest scores.

        There is at least one, and with BatchNorm there are at least two. Synchronised processes
        choose from the batch of all: each gets those of its own part, perhaps none, and waits for
        the device to learn how many.

        Args:
            scores: one number per sample of the batch, shape (b,).
            share: from 0 to 1.
        """
        processes = self._processes if self._averages else Processes(None)
        return processes.largest(scores, share, self._least(of_process=False), self._least())

    def shared(self, direction: Gradients) -> Gradients:
        """Return the direction for all processes: the average of theirs, unless they agree."""
        if not self._averages:
            self._finite.settle()
            self._processes.average_(direction, len(self))
        return direction

    def rollback(self) -> None:
        """Put the buffers back to where they were before the step."""
        if self._before is not None:
            self._before.restore()

    def finish(self) -> None:
        """End the step: a loss scaler learns if one of its passes overflowed."""
        self.scaling.update()
        release(self.model, self._before)
        release(self.model, self._after)
        self._before = self._after = None

    def _evaluate(self, index: Index | None, parameters: Sequence[Tensor] = ()) -> Tensor:
        """Return the mean loss; with parameters, leave its gradient in their `.grad`."""
        batch = self.batch if index is None else self.batch[index]
        counts = [len(batch)]
        if self.micro_batch is not None:
            counts = sizes.at_most(self.micro_batch, len(batch), self._least())
        if parameters and (self.loss is not None or len(counts) > 1):
            self.batch.check_no_graph()
        losses, outputs = [], []
        for part in batch.split(counts):
            with self._autocast():
                with too_few_explained(len(part), self._modules):
                    out = self._forward(part.inputs)
                each = per_sample(self.loss_fn(out, part.targets), len(part))
            self.forward_samples += len(part)
            if parameters:
                # The mean of no samples would be NaN, and has to be 0.
                whole = 0 < len(part) == len(batch)
                loss = each.mean() if whole else each.sum() / max(len(batch), 1)
                differentiate(self.scaling.scaled(loss), parameters, self._trained)
                self.backward_samples += len(part)
            losses.append(each.detach())
            outputs.append(detached(out))
        self.sample_losses = losses[0] if len(losses) == 1 else torch.cat(losses)
        mean = self.sample_losses.mean() if len(batch) else self.sample_losses.sum()
        if self.loss is None:
            self.loss = mean
            self.outputs = joined(outputs, counts)
        elif index is None and self.sharp_loss is None:
            self.sharp_loss = mean
        return mean

    def _least(self, *, of_process: bool = True) -> int:
        return sizes.least_samples(self._modules, of_process=of_process)

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
                self._before = snapshot(self.model, self._modules)
            if self.replay_rng:
                self._replay = Replay(generators(self._modules, self._devices()))
            yield
            if self._replay:
                self._replay.end()
            return
        self._after = self._after or snapshot(self.model, self._modules)
        try:
            with self._replay.again() if self._replay else nullcontext():
                yield
        finally:
            self._after.restore()

    def _devices(self) -> set[torch.device]:
        return {self.batch.device, *(p.device for p in self._trained)}

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.batch.device.type, self.autocast)

    def _check(self, loss: Tensor, gradients: Gradients) -> None:
        if not self.check_finite:
            return
        self._finite.add(loss, gradients)
        # Without synchronisation another process may make fewer passes, so it would not answer.
        if self._averages or (self._processes.alone and not self._is_part):
            self._finite.settle()
