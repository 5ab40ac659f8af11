"""One forward and one backward pass, with the user's model and loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from samtune.optimizers.batch import mapped
from samtune.optimizers.sizes import least_samples

LossFunction = Callable[[Any, Any], Tensor]


def check_model(model: object) -> None:
    """Raise TypeError unless the model is a plain module."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise TypeError(
            "the model is wrapped in DistributedDataParallel, which would average each pass "
            "by itself; give GradientOracle model.module, with ddp=the process group"
        )
    if not isinstance(model, nn.Module):
        what = f"class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(
            f"the model is a {what}, and must be an instance of torch.nn.Module: its buffers and "
            "random numbers are kept from pass to pass; put a function into a module's forward"
        )


class Forward:
    """A model, called in the way in which its `forward` takes the inputs.

    A dict is passed by keyword if `forward` takes its keys, as Hugging Face models do. A list or
    tuple is passed by position if `forward` takes as many. Otherwise the model gets one argument.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        self._model = model
        self._spread = _spread(model, inputs)

    def __call__(self, inputs: Any) -> Any:
        """Return the outputs. Inputs that require a gradient get it on separate copies."""
        inputs = mapped(_own, inputs)
        if self._spread is Mapping:
            return self._model(**inputs)
        return self._model(*inputs) if self._spread is Sequence else self._model(inputs)


def _spread(model: nn.Module, inputs: Any) -> type | None:
    if isinstance(inputs, Mapping):
        kind: type = Mapping
    elif isinstance(inputs, list | tuple) and not hasattr(inputs, "_fields"):
        kind = Sequence
    else:
        return None
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        # A traced model shows no signature and takes single tensors.
        return kind
    try:
        signature.bind(**inputs) if kind is Mapping else signature.bind(*inputs)
    except TypeError:
        return None
    return kind


def _own(t: Tensor) -> Tensor:
    # Several passes would add up in `.grad` of the caller's tensor.
    return t.detach().requires_grad_() if t.requires_grad and t.is_leaf else t


def per_sample(loss: object, samples: int) -> Tensor:
    """Return what a loss function returned as one float32 or wider number per sample.

    Raises:
        TypeError: it is not a tensor.
        ValueError: its first dimension is not the batch.
    """
    wanted = f"it must return one loss per sample, shape ({samples},)"
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss_fn returned a {type(loss).__name__}; {wanted}, as one tensor")
    if loss.dim() == 0 or len(loss) != samples:
        shape = f"shape {tuple(loss.shape)} for {samples} samples"
        hint = ': give it reduction="none"' if loss.dim() == 0 else f", or ({samples}, ...)"
        raise ValueError(f"loss_fn returned {shape}; {wanted}{hint}")
    loss = loss.to(torch.promote_types(loss.dtype, torch.float32))
    return loss if loss.dim() == 1 else loss.flatten(1).mean(1)


def differentiate(loss: Tensor, parameters: Sequence[Tensor], trained: Sequence[Tensor]) -> None:
    """Add the gradient of the loss to `.grad` of the parameters, as `loss.backward()` does.

    Args:
        loss: shape ().
        parameters: the parameters of the gradient.
        trained: all parameters of the model that require a gradient; `.grad` of those that are
            not among `parameters` stays as it is.

    Raises:
        ValueError: the loss depends on no parameter.
    """
    if not loss.requires_grad:
        raise ValueError(
            "the loss does not depend on any parameter that requires a gradient; is the output "
            "detached, or computed under torch.no_grad()?"
        )
    wanted = {id(p) for p in parameters}
    others = [p for p in trained if id(p) not in wanted]
    # With the requested parameters as inputs, a backward pass skips the others. But it then also
    # skips parameters that a custom function uses in a backward pass of its own.
    if others and not _has_custom_function(loss):
        torch.autograd.backward(loss, inputs=[p for p in parameters if p.requires_grad])
        return
    kept = [p.grad for p in others]
    for p in others:
        p.grad = None
    try:
        torch.autograd.backward(loss)
    finally:
        for p, grad in zip(others, kept, strict=True):
            p.grad = grad


def _has_custom_function(loss: Tensor) -> bool:
    seen: set[object] = set()
    found = [loss.grad_fn]
    while found:
        node = found.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found += [before for before, _ in node.next_functions]
    return any(isinstance(node, BackwardCFunction) for node in seen)


@contextmanager
def too_few_explained(samples: int, modules: Iterable[nn.Module]) -> Iterator[None]:
    """Explain an error of a forward pass over fewer samples than BatchNorm can normalise."""
    try:
        yield
    except ValueError as error:
        if samples >= least_samples(modules, of_process=False):
            raise
        raise ValueError(
            f"the model has BatchNorm, which cannot normalise a single sample ({error}); "
            "choose a batch_size that leaves at least two samples in every batch, and no knob "
            "of the variant that takes samples one by one"
        ) from error
