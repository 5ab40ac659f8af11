"""The oracle of a closure: the gradients of `optimizer.step(closure)`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from samtune.optimizers.batch import Index
from samtune.optimizers.buffers import Buffers
from samtune.optimizers.finite import NonFiniteError
from samtune.optimizers.oracle import GradientOracle
from samtune.optimizers.randomness import Replay, generators
from samtune.optimizers.tensors import Gradients, alike, global_norm


class ClosureError(TypeError):
    """An error for a variant that needs more than a closure can give."""


class ClosureOracle(GradientOracle):
    """Gradients by torch's usual closure: zero_grad, forward, backward, return the loss.

    The closure is called once per pass. A hook finds the modules that it calls. Their buffers and
    the global random generators are treated as `GradientOracle` treats them: the first pass
    changes them, and later passes draw the same numbers and leave both as they were.

    Args:
        closure: returns the loss, and leaves its gradient in `.grad` of the parameters.
        owner: the variant's class, for messages.
        parameters: all parameters of the optimizer.
        scale: what a GradScaler has multiplied the loss by, shape (); None if it has not.
    """

    def __init__(
        self,
        closure: Callable[[], Any],
        owner: str,
        parameters: Sequence[Tensor],
        scale: Tensor | None = None,
    ) -> None:
        self._closure = closure
        self._owner = owner
        self._parameters = parameters
        self._scale = scale
        self._roots: dict[nn.Module, Buffers] = {}
        self._replay: Replay | None = None
        self.forward_samples = self.backward_samples = 0
        self.sample_losses = None
        self.result: Any = None

    # A property in place of the base's attribute: the model is known after the first pass.
    @property
    def model(self) -> nn.Module:  # type: ignore[override]
        """The outermost modules that the closure called in the first pass."""
        if not self._roots:
            self._refuse("the model before its first pass")
        return nn.ModuleList(self._roots)

    def __len__(self) -> int:
        """Return 1: a closure's batch cannot be divided."""
        return 1

    def grad(self, parameters: Sequence[Tensor], index: Index | None = None) -> Gradients:
        """Return the gradient that the closure leaves; the tensors are the caller's to change."""
        if index is not None:
            self._refuse("gradients of a part of the batch")
        self._clear()
        try:
            with self._pass(None), torch.enable_grad():
                result = self._closure()
            gradients = [p.grad for p in parameters]
        finally:
            self._clear()
        if all(g is None for g in gradients):
            raise ValueError(
                f"the closure left no gradient in any parameter of {self._owner}; it must call "
                "backward() on a loss that depends on them"
            )
        self.backward_samples += 1
        if self.backward_samples == 1:
            self.result = result.detach() if isinstance(result, Tensor) else result
        return self._unscaled([g if g is None else g.to_dense() for g in gradients])

    def losses(self, index: Index | None = None) -> Tensor:
        """Raise ClosureError: a closure gives one loss for the batch."""
        self._refuse("the losses of single samples")

    def mean_square(self, parameters: Sequence[Tensor], samples: int | None = None) -> Gradients:
        """Raise ClosureError: a closure gives one gradient for the batch."""
        self._refuse("the gradients of single samples")

    def chunks(self, m: int) -> Iterator[GradientOracle]:
        """Raise ClosureError: a closure's batch cannot be divided."""
        self._refuse(f"chunks of {m} samples of the batch")

    def parts(self, count: int) -> list[tuple[slice, float]]:
        """Raise ClosureError: a closure's batch cannot be divided."""
        self._refuse(f"{count} parts of the batch")

    def shared(self, direction: Gradients) -> Gradients:
        """Return the direction: gradients of a distributed model are averaged already."""
        return direction

    def rollback(self) -> None:
        """Put the buffers back to where they were before the step."""
        for buffers in self._roots.values():
            buffers.restore()

    def finish(self) -> None:
        """End the step; there is nothing to do."""

    def _refuse(self, what: str) -> NoReturn:
        raise ClosureError(
            f"{self._owner} needs {what} with these knobs, which a closure cannot give; call "
            "optimizer.step(GradientOracle(model, inputs, targets, loss_fn)) with a loss_fn of "
            'reduction="none"'
        )

    def _clear(self) -> None:
        for p in self._parameters:
            p.grad = None

    @contextmanager
    def _pass(self, index: Index | None) -> Iterator[None]:
        # Inside a caller's own autocast block, casts of the weights at an earlier point survive.
        torch.clear_autocast_cache()
        roots: dict[nn.Module, Buffers] = {}
        first = self._replay is None
        if self._replay is None:
            devices = {p.device for p in self._parameters}
            self._replay = Replay(generators([], devices))
        self._watch(roots)
        try:
            with nullcontext() if first else self._replay.again():
                yield
            if first:
                self._replay.end()
        finally:
            self._hook.remove()
            if first:
                self._roots = roots
            else:
                for buffers in roots.values():
                    buffers.restore()

    def _watch(self, roots: dict[nn.Module, Buffers]) -> None:
        """Note each module that no other one calls, with its buffers as they are before."""

        def enter(module: nn.Module, _: Any) -> None:
            # No hook while it runs: one for all modules would be traced into a compiled model.
            self._hook.remove()
            if module not in roots:
                roots[module] = Buffers(module.modules())

            def leave(*_: Any) -> None:
                own.remove()
                self._watch(roots)

            own = module.register_forward_hook(leave, always_call=True)

        # A model that is compiled in place would trace it.
        untraced: Any = torch.compiler.disable  # torch leaves its type out.
        self._hook = register_module_forward_pre_hook(untraced(enter))

    def _unscaled(self, gradients: Gradients) -> Gradients:
        if self._scale is None:
            return gradients
        for group in alike(g for g in gradients if g is not None):
            torch._foreach_mul_(group, (1 / self._scale).to(group[0].device))
        if not torch.isfinite(global_norm(gradients)):
            raise NonFiniteError("a gradient is not finite")
        return gradients
