"""Loading of saved state: in its own dtypes, on the current devices and in current layouts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from samtune.optimizers.tensors import laid_out

_NUMBERS = {"mu_product", "eta", "mu"}
"""Numbers in the state of NAdam and ASGD."""


def load_in_place(
    base: torch.optim.Optimizer, saved: Mapping[str, Any], kept: Collection[str]
) -> None:
    """Load a base's saved state into its existing parameter groups.

    Args:
        base: the optimizer.
        saved: what its `state_dict()` returned.
        kept: words that a group keeps if its saved one does not have them.
    """
    groups = base.param_groups
    base.load_state_dict(dict(saved))
    for group, loaded in zip(groups, base.param_groups, strict=True):
        own = {word: group[word] for word in kept if word in group}
        group.clear()
        group.update({**own, **loaded})
    # torch replaces the dicts, but other objects may refer to the old ones.
    base.param_groups = groups
    _put_numbers_back(base, saved)
    _lay_out(base)


def _put_numbers_back(base: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Restore the numbers in a base's state, which torch has converted while loading.

    torch converts all but `step` to the dtype and the device of the parameter.
    """
    indices = (i for group in saved["param_groups"] for i in group["params"])
    parameters = (p for group in base.param_groups for p in group["params"])
    for index, p in zip(indices, parameters, strict=True):
        before, loaded = saved["state"].get(index, {}), base.state.get(p, {})
        for name in _NUMBERS & before.keys():
            loaded[name] = before[name].to(loaded["step"].device)


def _lay_out(base: torch.optim.Optimizer) -> None:
    """Give a base's state the layouts of its parameters.

    Fused kernels of torch take elements in the order in memory and compare no strides. The state
    of a GPU, saved in channels_last, would move the wrong weights on the CPU.
    """
    for p, state in base.state.items():
        for name, t in state.items():
            if isinstance(t, Tensor) and t.shape == p.shape:
                state[name] = laid_out(t, p.detach())


def on_devices(memory: Mapping[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """Return a variant's memory with its tensors on the devices of the parameters."""
    found = dict(memory)
    for name, value in memory.items():
        if name == "chunks":
            found[name] = [on_devices(chunk, parameters) for chunk in value]
        elif isinstance(value, list):
            pairs = zip(value, parameters, strict=True)
            found[name] = [s.to(p.device) if isinstance(s, Tensor) else s for s, p in pairs]
        elif isinstance(value, Tensor):
            found[name] = value.to(parameters[0].device)
    return found
