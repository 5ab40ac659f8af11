"""A batch: nested structures of tensors that share their first dimension."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Index = Tensor | slice


@dataclass(frozen=True)
class Batch:
    """The inputs and targets of `count` samples.

    Both are a tensor or any nesting of dicts, lists, tuples and dataclasses. Each tensor has the
    samples along its first dimension. Tensors without dimensions, those whose first dimension is
    1 and everything that is not a tensor belong to all samples, and stay whole in every part.
    """

    inputs: Any
    targets: Any
    count: int

    @classmethod
    def of(cls, inputs: Any, targets: Any) -> Batch:
        """Return the batch. Raise ValueError where inputs and targets do not fit together."""
        count, labels = _count("inputs", inputs), _count("targets", targets)
        if count is None:
            raise ValueError(
                "the inputs hold no tensor with a first dimension, which is what counts the "
                "samples of a batch; give a tensor, or a dict, list, tuple or dataclass of tensors"
            )
        if count == 0 or labels not in (count, None):
            raise ValueError(
                f"a batch needs as many targets as inputs, and at least one: "
                f"got {count} inputs and {0 if labels is None else labels} targets"
            )
        return cls(inputs, targets, count)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.count

    def __getitem__(self, index: Index) -> Batch:
        """Return the samples `index` as a batch, which may be empty."""

        def rows(t: Tensor) -> Tensor:
            if not self._has_samples(t):
                return t
            # If an input requires a gradient, so does each part of it.
            with torch.enable_grad():
                return t.detach()[index].requires_grad_(t.requires_grad) if t.is_leaf else t[index]

        inputs, targets = mapped(rows, self.inputs), mapped(rows, self.targets)
        pairs = zip(tensors(self.inputs), tensors(inputs), strict=True)
        count = next(len(part) for whole, part in pairs if self._has_samples(whole))
        return Batch(inputs, targets, count)

    def split(self, sizes: Sequence[int]) -> Iterator[Batch]:
        """Yield neighbouring parts of these sizes."""
        if len(sizes) == 1:
            yield self
            return
        start = 0
        for size in sizes:
            yield self[start : start + size]
            start += size

    @property
    def device(self) -> torch.device:
        """The device of the samples."""
        return next(t.device for t in tensors(self.inputs) if self._has_samples(t))

    def check_no_graph(self) -> None:
        """Raise ValueError if an input was computed from something that requires a gradient."""
        if any(t.grad_fn is not None for t in tensors(self.inputs)):
            raise ValueError(
                "the inputs were computed from tensors that require a gradient, and only one "
                "backward pass can go through that graph; compute them in the model's forward, or "
                "detach() them"
            )

    def _has_samples(self, t: Tensor) -> bool:
        return t.dim() > 0 and len(t) == self.count


def detached(outputs: Any) -> Any:
    """Return the outputs without their graphs."""
    return mapped(Tensor.detach, outputs)


def joined(outputs: Sequence[Any], counts: Sequence[int]) -> Any:
    """Return the outputs of neighbouring parts of `counts` samples as those of one batch.

    A value that is not a tensor with the part's samples along its first dimension is taken from
    the first part.
    """

    def join(*parts: Tensor) -> Tensor:
        fit = all(t.dim() > 0 and len(t) == n for t, n in zip(parts, counts, strict=True))
        return torch.cat(parts) if fit else parts[0]

    return outputs[0] if len(outputs) == 1 else mapped(join, *outputs)


def tensors(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors in a structure."""
    if isinstance(tree, Tensor):
        yield tree
    else:
        for child in _children(tree).values():
            yield from tensors(child)


def mapped(change: Callable[..., Tensor], tree: Any, *others: Any) -> Any:
    """Return a structure like `tree` with `change` of each tensor.

    `change` also gets the tensor's counterparts in `others`, which are structures of the same
    form.
    """
    if isinstance(tree, Tensor):
        return change(tree, *others)
    children = _children(tree)
    if not children:
        return tree
    beside = [_children(other) for other in others]
    return _rebuilt(
        tree,
        {
            key: mapped(change, child, *(other[key] for other in beside))
            for key, child in children.items()
        },
    )


def _children(tree: Any) -> dict[Any, Any]:
    if isinstance(tree, Mapping):
        return dict(tree)
    if isinstance(tree, list | tuple):
        return dict(enumerate(tree))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree)}
    return {}


def _rebuilt(tree: Any, children: dict[Any, Any]) -> Any:
    if isinstance(tree, tuple):
        kind, values = type(tree), list(children.values())
        return kind(*values) if hasattr(tree, "_fields") else kind(values)
    if isinstance(tree, Mapping) and not isinstance(tree, MutableMapping):
        return children
    # A copy keeps the other attributes of a user's class.
    new = copy.copy(tree)
    for key, child in children.items():
        if isinstance(tree, MutableMapping | list):
            new[key] = child
        else:
            object.__setattr__(new, key, child)
    return new


def _count(what: str, tree: Any) -> int | None:
    """Return the number of samples, or None if no tensor shows it."""
    counts = {len(t) for t in tensors(tree) if t.dim() > 0}
    several = counts - {1} or counts
    if len(several) > 1:
        raise ValueError(
            f"the tensors of the {what} have {' and '.join(map(str, sorted(several)))} rows; the "
            "first dimension of each must be the batch, or 1 for a tensor that all samples share"
        )
    return next(iter(several), None)
