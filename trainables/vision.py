"""Image classification with any optimizer variant: `asam = vision(ASAM)` is a trainable.

One loop trains all variants, plain SGD included; they differ inside `optimizer.step` only. The
learning rate follows its schedule over the trial's own full budget. A trial is judged on
validation data only. It can be interrupted and resumed at any epoch, and gives the same bits.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from samtune.optimizers import (
    AESAM,
    ASAM,
    CRSAM,
    ESAM,
    GAM,
    GSAM,
    KSAM,
    SAM,
    SGD,
    WSAM,
    AdamW,
    BayesianSAM,
    FisherSAM,
    FriendlySAM,
    Knob,
    LookbehindSAM,
    LookLayerSAM,
    LookSAM,
    MomentumSAM,
    SparseSAM,
    StableSAM,
    UnifiedSAM,
    Variant,
    VaSSO,
    base_of,
)
from samtune.optimizers.knobs import KnobError, reject_unknown
from samtune.trial import TrialConfig, Value
from trainables import averaging, graphs
from trainables.data import DataError, doubts, make_ready
from trainables.device import deterministic, no_gpu
from trainables.loop import Trial
from trainables.measurement import Measurement, of_checkpoint
from trainables.models import build_for, external, freezing
from trainables.models.check import check_single_images
from trainables.parallel import Ranks
from trainables.precision import cannot_compile
from trainables.task import TASK


class Vision:
    """A trainable for image classification with one optimizer variant; made by `vision`."""

    def __init__(self, variant_class: type[Variant]) -> None:
        self.variant_class = variant_class
        self.variant = variant_class.name
        self.bases = variant_class.bases
        self.other_bases = True
        self.one_gpu = True
        self.task = dict(TASK)
        self.metrics = {"val_acc": "max", "val_loss": "min"}

    def __repr__(self) -> str:
        return f"vision({self.variant_class.__name__})"

    def __reduce__(self) -> tuple[Any, tuple[type[Variant]]]:
        # `vision` is cached, so unpickling gives the one object of this variant and not a copy.
        return vision, (self.variant_class,)

    def knobs(self, base: str) -> dict[str, Knob]:
        """Return the knobs of the variant and of its base optimizer.

        A variant that has no base optimizer ignores `base`.

        Raises:
            KnobError: The variant has no such base.
        """
        if not self.bases:
            return self.variant_class.knobs()
        return {**self.variant_class.knobs(), **base_of(self.variant_class, base).knobs}

    def check(self, knobs: Mapping[str, Value], base: str) -> None:
        """Check the knobs together.

        Raises:
            KnobError: The base optimizer does not take these values together.
        """
        if self.bases:
            optimizer = base_of(self.variant_class, base)
            optimizer.check({k: v for k, v in knobs.items() if k in optimizer.knobs})

    def metrics_of(self, task: Mapping[str, Value]) -> dict[str, str]:
        """Return the metrics that a search may improve on a task, each with `max` or `min`."""
        averaged = {f"{name}_averaged": mode for name, mode in self.metrics.items()}
        return self.metrics | (averaged if task["average"] != "none" else {})

    def check_task(self, task: Mapping[str, Value], epochs: float) -> None:
        """Check the task for trials of so many epochs.

        Raises:
            KnobError: The warm-up takes the whole trial, or nothing is frozen that could thaw.
        """
        if not freezing.frozen_for_good(task) and not freezing.patterns(task):
            raise KnobError(
                f"unfreeze_at is {task['unfreeze_at']:g} and nothing is frozen; name parameters "
                "in task.freeze, or leave it out"
            )
        warmup = float(task["warmup"])
        if warmup >= epochs:
            raise KnobError(
                f"warmup is {warmup:g} epochs and a trial has {epochs:.4g} in all, so it would "
                "never train at its lr; set task.warmup to 0, or raise budget.per_trial"
            )

    def faults(
        self,
        knobs: Mapping[str, Value],
        base: str,
        task: Mapping[str, Value],
        *,
        gpus: float,
        workers: int,
    ) -> list[str]:
        """Return a sentence for each combination of settings that no trial can have.

        A sentence begins with the word that it is about, `task.graph: ...`.

        Args:
            knobs: Those that are left out have their defaults.
            base: The word for the base.
            task: All words of the task.
            gpus: Of each process of a trial.
            workers: The processes of a trial.
        """
        own = self.variant_class.knobs()
        values = {name: knobs.get(name, knob.default) for name, knob in own.items()}
        found = graphs.faults(self.variant_class, values, base, task, gpus=gpus, workers=workers)
        if task["combo_kernels"] and not task["compile"]:
            found.append(
                "task.combo_kernels: it is about compiled models, and task.compile is false; set "
                "task.compile to true, or task.combo_kernels to false"
            )
        if task["compile"] and workers > 1 and task["batch_norm"] == "sync":
            found.append(
                "task.compile: the model cannot be compiled with BatchNorm over several workers; "
                "set task.batch_norm to local, or task.compile to false"
            )
        return found

    def make_ready(self, task: Mapping[str, Value]) -> None:
        """Prepare the data and check the model; run once, before all trials.

        Raises:
            DataError: No trial could have its data.
            GraphError: No graph could hold the model's passes.
            ModelError: No trial could have its model.
        """
        # The task of a run that an older samtune began lacks the words that were added since.
        task = {**{name: knob.default for name, knob in self.task.items()}, **task}
        shape, classes = make_ready(task)
        with warnings.catch_warnings():
            # The trials put these on record.
            warnings.simplefilter("ignore")
            model = build_for(task, shape, classes, seed=0)
        if task["batch_size"] == 1:
            check_single_images(model, shape)
        if task["average"] != "none":
            averaging.check(model)
        if task["graph"]:
            graphs.check(model, shape)

    def lacks(self, task: Mapping[str, Value], gpus: float) -> str | None:
        """Return what this machine lacks for trials of a task, a sentence; None if nothing.

        Args:
            task: As of `make_ready`.
            gpus: Of each process of a trial.
        """
        problem = no_gpu() if gpus else None
        if problem is None and task.get("compile"):
            problem = cannot_compile(gpus > 0)
        return problem

    def doubts(self, task: Mapping[str, Value]) -> list[str]:
        """Return what makes the data of a task doubtful; [] if that cannot be seen yet."""
        try:
            return doubts(task, int(task.get("split_seed", 1)))
        except DataError:
            return []

    def references(self, task: Mapping[str, Value], base: str) -> list[str]:
        """Return references to the user's own code that a space names: its model and its base."""
        model = str(task["model"])
        module, _, name = base.rpartition(".")
        own_base = bool(module) and module.partition(".")[0] != "torch"
        return [
            *([model] if external.is_own(model) else []),
            *([f"{module}:{name}"] if own_base else []),
        ]

    def see_per_epoch(self, knobs: Mapping[str, Value], base: str) -> float:
        """Return the theoretical cost of an epoch in SGD-epoch equivalents.

        Knobs that are left out have their defaults.
        """
        values = _complete(knobs, self.knobs(base), f"{self.variant} on {base}")
        return self.variant_class.see_of(values)

    def __call__(self, config: TrialConfig) -> None:
        """Train, evaluate and report until the budget is spent or a loss is not finite.

        Raises:
            KnobError: A knob or a word of the task has a value that it cannot have.
            DataError: The data is missing or damaged.
            ModelError: The model does not exist, or does not fit the images.
            CheckpointError: `config.checkpoint_dir` holds the checkpoint of another trial.
        """
        if config.variant != self.variant:
            raise ValueError(f"this trainable runs {self.variant}, not {config.variant!r}")
        config = self._completed(config)
        task, count = config.task, config.workers
        faults = self.faults(config.knobs, config.base, task, gpus=config.gpus, workers=count)
        if faults:
            raise KnobError("; ".join(faults))
        with deterministic(bool(task["deterministic"])), Ranks.joined(config.workers) as ranks:
            Trial(config, lambda model, n: self._optimizer(model, n, config), ranks).run()

    def sharpness(
        self, config: TrialConfig, settings: Mapping[str, Value] | None = None
    ) -> dict[str, Value]:
        """Return the `sharp_` columns of a trial that has ended, from its last checkpoint.

        Args:
            config: The trial's configuration.
            settings: Fields of `Measurement`; those that are left out have their defaults.

        Raises:
            CheckpointError: The trial has no whole checkpoint.
            DataError: The data is missing or damaged.
        """
        how: dict[str, Any] = dict(settings or {})
        with warnings.catch_warnings():
            # The trial put these on record.
            warnings.simplefilter("ignore")
            return of_checkpoint(self._completed(config), Measurement(**how))

    def _completed(self, config: TrialConfig) -> TrialConfig:
        """Return the configuration with every knob and every word of the task."""
        base = config.base
        knobs = _complete(config.knobs, self.knobs(base), f"{self.variant} on {base}")
        task = _complete(config.task, self.task, "the task")
        return dataclasses.replace(config, knobs=knobs, task=task)

    def _optimizer(self, model: nn.Module, n_data: int, config: TrialConfig) -> Variant:
        values = config.knobs
        own: dict[str, Any] = {name: values[name] for name in self.variant_class.knobs()}
        own["seed"] = config.seeds.order

        def make_base(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
            base = base_of(self.variant_class, config.base)
            return base.build(parameters, **{name: values[name] for name in base.knobs})

        trained = freezing.trained(model, config.task)
        return self.variant_class.build(trained, make_base, n_data=n_data, **own)


@cache
def vision(variant_class: type[Variant]) -> Vision:
    """Return the trainable of an optimizer variant, the same object at each call."""
    return Vision(variant_class)


sgd = vision(SGD)
adamw = vision(AdamW)
sam = vision(SAM)
asam = vision(ASAM)
esam = vision(ESAM)
gsam = vision(GSAM)
fisher_sam = vision(FisherSAM)
bayesian_sam = vision(BayesianSAM)
friendly_sam = vision(FriendlySAM)
look_sam = vision(LookSAM)
look_layer_sam = vision(LookLayerSAM)
wsam = vision(WSAM)
momentum_sam = vision(MomentumSAM)
vasso = vision(VaSSO)
stable_sam = vision(StableSAM)
unified_sam = vision(UnifiedSAM)
ae_sam = vision(AESAM)
sparse_sam = vision(SparseSAM)
cr_sam = vision(CRSAM)
gam = vision(GAM)
k_sam = vision(KSAM)
lookbehind_sam = vision(LookbehindSAM)


def _complete(
    given: Mapping[str, Value], knobs: Mapping[str, Knob], owner: str
) -> dict[str, Value]:
    """Return every knob with its checked value; knobs that are not given have their defaults."""
    reject_unknown(given, knobs, owner)
    return {name: knob.check(given.get(name, knob.default)) for name, knob in knobs.items()}
