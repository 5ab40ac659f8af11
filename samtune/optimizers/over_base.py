"""An optimizer over another one, its base: their common groups and state, and their weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from samtune.optimizers.groups import Group
from samtune.optimizers.reals import real, unreal
from samtune.optimizers.tensors import Factor, Gradients, moved


class OverBase(torch.optim.Optimizer):
    """An optimizer whose groups, state and defaults are those of its base.

    Whoever reads or writes them, such as a learning-rate scheduler, may use either of the two.
    """

    base: torch.optim.Optimizer

    @property
    def param_groups(self) -> list[Group]:
        """The base optimizer's parameter groups."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[Group]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> Any:
        """The base optimizer's state; the variant's own is `memory`."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The base optimizer's defaults."""
        return self.base.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.base.defaults = defaults

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters of all groups, in their order."""
        return [p for group in self.base.param_groups for p in group["params"]]

    @property
    def weights(self) -> list[Tensor]:
        """The parameters as real numbers, on which the equations work; see `reals.real`."""
        return [real(p.detach()) for p in self.parameters]

    @contextmanager
    def perturbed(self, d: Gradients, factor: Factor, *, keep: bool = False) -> Iterator[None]:
        """Move the weights to w + factor d inside the block, and back to w bit by bit after it.

        The tensors of d become the second set of weights, to which the parameters point inside
        the block. The first set is not touched, so nothing is copied back.

        Args:
            d: the direction, one entry for each of `weights`; where it is None, w stays.
            factor: the length of the step along d.
            keep: make a second set of new tensors, and leave those of d as they are. A factor
                for each tensor does so in any case.
        """
        pairs = [(p, t) for p, t in zip(self.parameters, d, strict=True) if t is not None]
        touched = [p for p, _ in pairs]
        first = [p.data for p in touched]
        second = (
            moved([real(w) for w in first], [t for _, t in pairs], factor, keep=keep)
            if pairs
            else []
        )
        try:
            for p, w in zip(touched, second, strict=True):
                p.data = unreal(w, p)
            yield
        finally:
            for p, w in zip(touched, first, strict=True):
                p.data = w
