"""Image classification with any optimizer variant: `asam = vision(ASAM)` is a trainable.

One loop trains them all, plain SGD included; what differs is inside `optimizer.step`. A trial
anneals its learning rate by a cosine over its own full budget, is judged on validation data only,
and can be cut and resumed at any epoch without a bit of difference.
"""

from __future__ import annotations

import dataclasses
import math
import resource
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samtune.optimizers import (
    AESAM,
    ASAM,
    BASES,
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
    GradientOracle,
    Knob,
    LookbehindSAM,
    LookLayerSAM,
    LookSAM,
    MomentumSAM,
    Perturbing,
    SparseSAM,
    StableSAM,
    UnifiedSAM,
    Variant,
    VaSSO,
)
from samtune.optimizers.variant import KnobError, nearest, reject_unknown
from samtune.trial import TrialConfig, Value, report
from trainables import checkpoint
from trainables.data import TASK, load, open_test
from trainables.evaluation import Normaliser, evaluate, evaluate_samples, evaluate_test
from trainables.meter import Meter
from trainables.models import MODELS, build

_name = partial(Knob, kind=str, low=None, high=None, safe=None, scale="linear")
_number = partial(Knob, choices=None)
_TASK = (
    *TASK,
    _name(
        name="model",
        default="small_cnn",
        choices=tuple(MODELS),
        doc="network; its weights are drawn from the init seed",
        source="trainables/models",
    ),
    _number(
        name="batch_size",
        kind=int,
        default=64,
        low=1,
        high=None,
        safe=(8, 4096),
        scale="log",
        doc="images a step; an epoch's last batch holds what is left",
        source="BatchNorm needs several images to normalise over",
    ),
)


class Vision:
    """A trainable for image classification with one optimizer variant; made by `vision`."""

    def __init__(self, variant_class: type[Variant]) -> None:
        self.variant_class = variant_class
        self.variant = variant_class.name
        self.bases = variant_class.bases
        self.task = {knob.name: knob for knob in _TASK}
        self.metrics = {"val_acc": "max", "val_loss": "min"}

    def __repr__(self) -> str:
        return f"vision({self.variant_class.__name__})"

    def __reduce__(self) -> tuple[Any, tuple[type[Variant]]]:
        # `vision` is cached, so unpickling gives the one object of this variant and not a copy.
        return vision, (self.variant_class,)

    def knobs(self, base: str) -> dict[str, Knob]:
        """The variant's knobs and its base optimizer's. Raises KnobError for another base.

        A variant that is an optimizer of its own has no bases, and takes any word for one.
        """
        if not self.bases:
            return self.variant_class.knobs()
        if base not in self.bases:
            raise KnobError(
                f"{self.variant} has no base optimizer {base!r}{nearest(base, self.bases)} "
                f"(it has: {', '.join(self.bases)})"
            )
        return {**self.variant_class.knobs(), **BASES[base].knobs}

    def check(self, knobs: Mapping[str, Value], base: str) -> None:
        """Raises KnobError for knobs that cannot be had together."""
        if base in self.bases:
            BASES[base].check({k: v for k, v in knobs.items() if k in BASES[base].knobs})

    def make_ready(self, task: Mapping[str, Value]) -> None:
        """Raises DataError when no trial could have its data; called once, before them all."""
        from trainables.data import make_ready

        make_ready(task)

    def see_per_epoch(self, knobs: Mapping[str, Value], base: str) -> float:
        """Cost of one epoch in SGD-epoch equivalents, by theory; knobs left out are default."""
        values = _complete(knobs, self.knobs(base), f"{self.variant} on {base}")
        # Without a base: theory needs none, and torch spends 2 s on its first optimizer.
        variant = object.__new__(self.variant_class)
        for name in self.variant_class.knobs():
            setattr(variant, name, values[name])
        return variant.see_per_epoch

    def __call__(self, config: TrialConfig) -> None:
        """Trains, evaluates and reports until the budget is spent or a loss is not finite.

        Raises ValueError (KnobError, DataError) before training for a configuration that does not
        fit, and CheckpointError when `config.checkpoint_dir` holds another trial's checkpoint.
        """
        if config.variant != self.variant:
            raise ValueError(f"this trainable runs {self.variant}, not {config.variant!r}")
        base = config.base
        knobs = _complete(config.knobs, self.knobs(base), f"{self.variant} on {base}")
        task = _complete(config.task, self.task, "the task")
        config = dataclasses.replace(config, knobs=knobs, task=task)
        _Trial(config, lambda model, n: self._optimizer(model, n, config)).run()

    def _optimizer(self, model: nn.Module, n_data: int, config: TrialConfig) -> Variant:
        values = config.knobs
        own: dict[str, Any] = {name: values[name] for name in self.variant_class.knobs()}
        own["seed"] = config.seeds.order
        if issubclass(self.variant_class, BayesianSAM):
            return self.variant_class(model.parameters(), n_data=n_data, **own)
        of_base = {name: values[name] for name in BASES[config.base].knobs}
        return self.variant_class(BASES[config.base].build(model.parameters(), **of_base), **own)


@cache
def vision(variant_class: type[Variant]) -> Vision:
    """The trainable of an optimizer variant; the same object at each call."""
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


class _Trial:
    """One run of the loop; `config` is complete and checked."""

    def __init__(
        self, config: TrialConfig, make_optimizer: Callable[[nn.Module, int], Variant]
    ) -> None:
        self.config = config
        self.threads = max(1, int(config.cpus))
        torch.set_num_threads(self.threads)
        on_gpu = config.gpus > 0 and torch.cuda.is_available()
        self.device = torch.device("cuda" if on_gpu else "cpu")
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        # A warm worker's generators still stand where its last trial left them.
        checkpoint.seed_rng(config.seeds.order)

        data = load(config.task, config.seeds.split)
        self.train = data.train.resident(self.device)
        self.val = data.val.resident(self.device)
        self.normalise = Normaliser(data.mean.to(self.device), data.std.to(self.device))
        self.data_sha256 = data.sha256
        channels, height, width = data.train.images.shape[1:]
        self.model = build(
            str(config.task["model"]), (channels, height, width), data.classes, config.seeds.init
        ).to(self.device)
        n_train = len(data.train.labels)
        self.optimizer = make_optimizer(self.model, n_train)
        self.meter = Meter(config.budget, n_train, min(int(config.task["batch_size"]), n_train))

    def run(self) -> None:
        self._resume()
        while not self.meter.finished():
            self.meter.epoch += 1
            metrics = self._train_epoch() | self._validate()
            finite = all(math.isfinite(value) for value in metrics.values())
            if finite and self.meter.finished() and self.config.test_permit is not None:
                metrics |= self._test()
            metrics |= self._costs()
            self._report(metrics, self._save(metrics) if finite else None)
            if not finite:
                return

    def _train_epoch(self) -> dict[str, float]:
        meter, lr = self.meter, float(self.config.knobs["lr"])
        cross_entropy = partial(F.cross_entropy, reduction="none")
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        seen = 0
        self.model.train()
        started = perf_counter()
        for images, labels in self.train.batches(self._order(), meter.batch_size, self.device):
            inputs = self.normalise(images)
            made = perf_counter()
            meter.data_s += made - started

            annealed = lr * meter.cosine
            for group in self.optimizer.base.param_groups:
                group["lr"] = annealed
            self.optimizer.set_progress(meter.progress, meter.cosine)
            result = self.optimizer.step(GradientOracle(self.model, inputs, labels, cross_entropy))
            loss += result.loss * len(labels)
            correct += (result.outputs.argmax(dim=1) == labels).sum()
            seen += len(labels)

            started = perf_counter()
            meter.count(result, started - made)
            if meter.finished():
                break
        # The epoch's only wait for the device; what was still queued there is training time.
        metrics = {"train_loss": loss.item() / seen, "train_acc": correct.item() / seen}
        meter.train_s += perf_counter() - started
        return {**metrics, "lr": annealed}

    def _order(self) -> Tensor:
        """This epoch's order of the training images; a resumed trial draws the same again."""
        rng = np.random.default_rng((self.config.seeds.order, self.meter.epoch))
        return torch.from_numpy(rng.permutation(self.meter.n_train)).to(self.device)

    def _validate(self) -> dict[str, float]:
        started = perf_counter()
        metrics = evaluate(self.model, self.val, self.normalise)
        if isinstance(self.optimizer, BayesianSAM) and self.meter.finished():
            # As dear as 32 evaluations, so only once.
            sampled = evaluate_samples(
                self.model, self.val, self.normalise, self.optimizer.sampled_weights
            )
            metrics |= {f"{name}_sampled": value for name, value in sampled.items()}
        self.meter.eval_s += perf_counter() - started
        return {f"val_{name}": value for name, value in metrics.items()}

    def _test(self) -> dict[str, float]:
        started = perf_counter()
        split = open_test(self.config.task, self.config.seeds.split, self.config.test_permit)
        split = split.resident(self.device)
        metrics = evaluate_test(self.model, split, self.normalise)
        if isinstance(self.optimizer, BayesianSAM):
            sampled = evaluate_samples(
                self.model, split, self.normalise, self.optimizer.sampled_weights
            )
            metrics |= {f"test_{name}_sampled": value for name, value in sampled.items()}
        self.meter.eval_s += perf_counter() - started
        return metrics

    def _costs(self) -> dict[str, float]:
        meter, rho = self.meter, self._rho()
        # Kilobytes on Linux, bytes on macOS; of the process, so of its earlier trials too.
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        on_gpu = self.device.type == "cuda"
        return {
            "step": meter.step,
            "see": meter.see,
            "forward_samples": meter.forward_samples,
            "backward_samples": meter.backward_samples,
            "skipped_steps": meter.skipped_steps,
            "train_s": meter.train_s,
            "eval_s": meter.eval_s,
            "data_s": meter.data_s,
            "peak_rss_mb": rss / (2**20 if sys.platform == "darwin" else 2**10),
            "peak_gpu_mb": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else 0.0,
            **({} if rho is None else {"rho": rho}),
        }

    def _rho(self) -> float | None:
        """The radius of the last step, which a schedule may have changed."""
        if isinstance(self.optimizer, Perturbing):
            return self.optimizer.radius
        rho = self.config.knobs.get("rho")
        return None if rho is None else float(rho)

    def _facts(self) -> dict[str, Value]:
        # No CPU operation used here depends on timing; a budget of seconds does.
        repeatable = self.device.type == "cpu" or torch.are_deterministic_algorithms_enabled()
        return {
            "n_train": self.meter.n_train,
            "n_val": len(self.val.labels),
            "n_params": sum(parameter.numel() for parameter in self.model.parameters()),
            "device": self.device.type,
            "threads": self.threads,
            "data_sha256": self.data_sha256,
            "torch_version": str(torch.__version__),
            "deterministic": repeatable and self.config.budget.kind != "seconds",
        }

    def _report(self, metrics: Mapping[str, float], saved: checkpoint.Saved | None) -> None:
        report(
            epoch=self.meter.epoch,
            checkpoint=str(saved.path) if saved else None,
            checkpoint_sha256=saved.sha256 if saved else None,
            facts=self._facts(),
            **metrics,
        )

    def _save(self, metrics: Mapping[str, float]) -> checkpoint.Saved | None:
        if self.config.checkpoint_dir is None:
            return None
        state = {
            "trial": _identity(self.config),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "counters": self.meter.counters(),
            "rng": checkpoint.rng_state(self.device),
            "metrics": dict(metrics),
        }
        return checkpoint.save(Path(self.config.checkpoint_dir), self.meter.epoch, state)

    def _resume(self) -> None:
        """Goes on from the newest whole checkpoint, if there is one.

        Its report is sent again, because the interruption may have come between the two.
        """
        folder = self.config.checkpoint_dir
        path = checkpoint.latest(Path(folder)) if folder is not None else None
        if path is None:
            return
        state = checkpoint.load(path)
        checkpoint.refuse_other_trial(path, state["trial"], _identity(self.config))
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.meter = dataclasses.replace(self.meter, **state["counters"])
        checkpoint.restore_rng(state["rng"], self.device)
        self._report(state["metrics"], checkpoint.verify(path))


def _complete(
    given: Mapping[str, Value], knobs: Mapping[str, Knob], owner: str
) -> dict[str, Value]:
    """Every knob, checked; those not given have their default."""
    reject_unknown(given, knobs, owner)
    return {name: knob.check(given.get(name, knob.default)) for name, knob in knobs.items()}


def _identity(config: TrialConfig) -> dict[str, Value]:
    """What makes two trials the same one, as dotted words."""
    plain = config.to_dict()
    words: dict[str, Value] = {name: plain[name] for name in ("variant", "base")}
    for group in ("knobs", "task", "seeds", "budget"):
        words |= {f"{group}.{name}": value for name, value in plain[group].items()}
    return words
