"""An average of the weights over training, which is evaluated beside the weights themselves.

It is taken after the steps, from the weights that a variant has between them, and changes nothing
in the training. BatchNorm's statistics are those of the literature: EMA averages them like the
weights (as timm and torchvision do), SWA counts them anew over the training images (Izmailov et
al. 2018, section 3.2).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from samtune.optimizers import Knob
from samtune.trial import Value
from trainables.models.parts import BatchNorm, ModelError, first_line, is_batch_norm
from trainables.precision import Precision

KNOBS: tuple[Knob, ...] = (
    Knob(
        name="average",
        kind=str,
        default="none",
        choices=("none", "ema", "swa"),
        doc="of the weights, evaluated beside them; ema: after each step, exponential; swa: after "
        "each epoch, equal, which wants a schedule that does not end at 0 (min_lr)",
        source="torch.optim.swa_utils; Izmailov et al. 2018, arXiv 1803.05407",
    ),
    Knob(
        name="average_decay",
        kind=float,
        default=0.999,
        low=0.0,
        high=1.0,
        safe=(0.9, 0.9999),
        doc="of average ema; the n-th step has at most (1 + n) / (10 + n)",
        source="tf.train.ExponentialMovingAverage; DeiT: 0.99996",
    ),
    Knob(
        name="average_start",
        kind=float,
        default="auto",
        low=0.0,
        high=1.0,
        safe=(0.0, 0.9),
        choices=("auto",),
        doc="share of the budget after which the average begins; auto: 0 for ema, 0.75 for swa",
        source="Izmailov et al. 2018, section 4: the last quarter",
    ),
)

_STARTS = {"ema": 0.0, "swa": 0.75}


class Average:
    """An average of a model's weights, over steps or epochs.

    Until it begins it is the model. The state is bit-exact, so a resumed trial has the same.

    Args:
        model: the model that is trained; it is copied.
        kind: `ema` or `swa`.
        decay: of `ema`.
        start: the progress, from 0 to 1, at which it begins.
    """

    def __init__(self, model: nn.Module, kind: str, decay: float, start: float) -> None:
        self.by_step = kind == "ema"
        self._model = model
        self._decay = decay
        self._start = start
        self._averaged = AveragedModel(model)

    @classmethod
    def of(cls, task: Mapping[str, Value], model: nn.Module) -> Average | None:
        """Return the average that a task asks for, None for none."""
        kind, start = str(task["average"]), task["average_start"]
        if kind == "none":
            return None
        first = _STARTS[kind] if start == "auto" else float(start)
        return cls(model, kind, float(task["average_decay"]), first)

    @property
    def module(self) -> nn.Module:
        """The averaged weights and buffers; `shown` runs them, as its code may be the model's."""
        return self._averaged.module

    @property
    def begun(self) -> bool:
        """True if it differs from the model."""
        return int(self._averaged.n_averaged) > 0

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Take in the weights as they are at a progress from 0 to 1."""
        # Counted in floats: a start at 0.3 is due at 3 of 10 epochs.
        if progress < self._start - 1e-9:
            return
        # The count lies on the CPU. torch's own update sends it to the device and waits for that.
        n = int(self._averaged.n_averaged)
        share = 1 - min(self._decay, (1 + n) / (10 + n)) if self.by_step else 1 / (n + 1)
        statistics = _statistics(self.module) if self.by_step else []
        averaged = {id(t) for t in (*self.module.parameters(), *statistics)}
        moved: list[tuple[Tensor, Tensor]] = []
        copied: list[tuple[Tensor, Tensor]] = []
        for own, models in zip(_tensors(self.module), _tensors(self._model), strict=True):
            has_mean = own.is_floating_point() or own.is_complex()
            follows = n > 0 and has_mean and id(own) in averaged
            (moved if follows else copied).append((own, models))
        if moved:
            torch._foreach_lerp_([own for own, _ in moved], [now for _, now in moved], share)
        if copied:
            torch._foreach_copy_([own for own, _ in copied], [now for _, now in copied])
        self._averaged.n_averaged += 1

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Give the model the averaged weights and buffers inside the block."""
        averaged = _tensors(self.module if self.begun else self._model)
        pairs = list(zip(_tensors(self._model), averaged, strict=True))
        first = [own.data for own, _ in pairs]
        try:
            for own, other in pairs:
                own.data = other.data
            yield
        finally:
            for (own, _), data in zip(pairs, first, strict=True):
                own.data = data

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights and buffers, and the number of averaged points."""
        return self._averaged.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a `state_dict()`."""
        self._averaged.load_state_dict(state)


@torch.no_grad()
def renew(
    model: nn.Module,
    inputs: Iterable[Tensor],
    precision: Precision,
    kept: Sequence[nn.Module] = (),
) -> None:
    """Count the statistics of a model's BatchNorm anew, as the means over batches of inputs.

    All other layers, and those that are `kept`, are in evaluation mode: dropout draws no numbers.
    """
    model.eval()
    norms = [norm for norm in _norms(model) if norm not in kept]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    for count, images in enumerate(inputs, 1):
        # Without a momentum a layer would read its own count, and wait for the device.
        for norm in norms:
            norm.momentum = 1 / count
        # Compiled code would hold the number.
        with precision.uncompiled(), precision.autocast():
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def has_statistics(model: nn.Module) -> bool:
    """Return whether the model has BatchNorm with running statistics."""
    return bool(_norms(model))


def check(model: nn.Module) -> None:
    """Check that a model can be averaged.

    Raises:
        ModelError: It cannot be copied.
    """
    try:
        copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"the weights cannot be averaged, because the model cannot be copied "
            f"({first_line(error)}); leave out task.average, or give the model a __deepcopy__"
        ) from error


def _norms(model: nn.Module) -> list[BatchNorm]:
    return [m for m in model.modules() if is_batch_norm(m) and m.running_mean is not None]


def _statistics(model: nn.Module) -> list[Tensor]:
    norms = _norms(model)
    return [t for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None]


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
