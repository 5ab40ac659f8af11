"""The one training loop: batches, steps, validation, reports and checkpoints of a trial."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from samtune.optimizers import Scheduled, Variant
from samtune.trial import TrialConfig, Value, report, warn
from trainables import checkpoint
from trainables.augment import Augment, Normaliser, warn_of_squares
from trainables.averaging import Average, has_statistics, renew
from trainables.batches import Batches
from trainables.budget import SKIPS_IN_A_ROW, Meter
from trainables.clock import EpochClock
from trainables.data import TrainVal, digest, load, open_test
from trainables.device import device_for, peak_memory, prepare
from trainables.evaluation import Predictor, evaluate, evaluate_posterior, evaluate_test
from trainables.identity import identities, identity
from trainables.measurement import Measurement, rebuilt
from trainables.models import build_for
from trainables.models.freezing import Frozen
from trainables.parallel import ALONE, Ranks
from trainables.precision import Precision, compiling
from trainables.saver import Saver, Send
from trainables.schedule import Schedule
from trainables.split import Split
from trainables.steps import Steps
from trainables.sums import Sums
from trainables.targets import Mixer

# The number of steps at the start of an epoch in which the two gradients are compared. It is ten,
# because an optimizer may perturb in every tenth step only.
_COMPARED = 10
# The metrics of the averaged weights that are also reported on test.
_ON_TEST = ("test_acc", "test_loss", "test_ece", "test_brier")


class Trial:
    """One run of the training loop.

    Args:
        config: complete and checked.
        make_optimizer: returns the variant for a model and a number of training images.
        ranks: the processes of the trial.
    """

    def __init__(
        self,
        config: TrialConfig,
        make_optimizer: Callable[[nn.Module, int], Variant],
        ranks: Ranks = ALONE,
    ) -> None:
        self.config = config
        self.ranks = ranks
        self.threads = max(1, int(config.cpus))
        torch.set_num_threads(self.threads)
        self.device = device_for(config.gpus)
        prepare(self.device)
        # The generators of a reused worker still have the state of its last trial.
        checkpoint.seed_rng(config.seeds.order, ranks.rank)

        data = load(config.task, config.seeds.split)
        warn_of_squares(config.task, data.train)
        self.train, self.val = self._resident(data.train), self._resident(data.val)
        self.data_sha256 = data.sha256
        n_train = len(data.train)
        batch_size = min(int(config.task["batch_size"]), n_train)
        schedule = Schedule.of(config.task, float(config.knobs["lr"]))
        self.meter = Meter(config.budget, n_train, batch_size, schedule)
        self._build(data)
        self.sums = Sums(self.device)
        self.optimizer = make_optimizer(self.model, n_train)
        self.frozen = Frozen.of(config.task, self.model)
        self.average = Average.of(config.task, self.model)
        self.steps = Steps(config.task, self.model, self.optimizer, self.precision, ranks)
        folder = config.checkpoint_dir
        self.saver = Saver(Path(folder)) if folder is not None else None
        # The facts of a repeat about its test split: which images it has, and which were right.
        self.tested: dict[str, str] = {}

    def _resident(self, split: Split) -> Split:
        return split.resident(self.device, min(1.0, self.config.gpus))

    def _build(self, data: TrainVal) -> None:
        task, seed = self.config.task, self.config.seeds.order
        self.precision = Precision.of(task, self.device)
        channels, height, width = data.train.images.shape[1:]
        shape = channels, height, width
        model = build_for(task, shape, data.classes, self.config.seeds.init)
        words = tuple(task[word] for word in ("model", "dropout", "freeze"))
        self.classes = data.classes
        self.model = self.precision.place(model, (words, shape, data.classes))
        normalise = Normaliser(data.mean.to(self.device), data.std.to(self.device))
        augment = Augment(str(task["augment"]), normalise, seed, self.precision.memory_format)
        mix = Mixer(float(task["mixup"]), float(task["cutmix"]), data.classes, seed)
        self.batches = Batches(
            self.train, self.meter.batches, augment, mix, self.device, self.ranks
        )
        self.predict = Predictor(self.model, normalise, self.precision, self.ranks)

    def run(self) -> None:
        """Train, evaluate and report until the budget is spent or a metric is not finite."""
        try:
            self._compile()
            goes_on = not self._resume()
            # A resumed trial makes a step and reports an end, even if its seconds are used.
            while goes_on:
                goes_on = self._epoch() and not self.meter.finished()
        finally:
            if self.saver is not None:
                self.saver.close()

    def _compile(self) -> None:
        """Compile all that the trial runs before its clock starts; change nothing else."""
        if not self.precision.compiled:
            return
        state = checkpoint.rng_state(self.device)
        with compiling():
            # On a CPU torch has other kernels for small batches, as the last one may be.
            for count in dict.fromkeys(self.ranks.share(n).size for n in self.meter.batches):
                self._pass_once(count)
        checkpoint.restore_rng(state, self.device)

    def _pass_once(self, count: int) -> None:
        """Evaluate and differentiate `count` images, without the other ranks."""
        places = torch.arange(count, device=self.val.rows.device) % len(self.val)
        rows, labels = self.val.rows[places], self.val.labels[places]
        few = dataclasses.replace(self.val, rows=rows, labels=labels)
        # The others wait for the lock of the compilation.
        Predictor(self.model, self.predict.normalise, self.precision)(few)
        [(images, labels)] = few.batches(torch.arange(count), count, self.device)
        inputs = self.predict.normalise(images)
        inputs = inputs.contiguous(memory_format=self.precision.memory_format)
        self.frozen.train()
        self.steps.differentiate(inputs, labels)

    def _epoch(self) -> bool:
        """Train and evaluate for an epoch, and report it; return whether all is finite."""
        self.meter.epoch += 1
        metrics = self._train_epoch() | self._validate()
        finite = all(math.isfinite(value) for value in metrics.values())
        metrics |= self._averaged(metrics)
        if finite and self.meter.finished() and self.config.test_permit is not None:
            metrics |= self._test()
        if finite and self.meter.finished() and self.config.sharpness:
            metrics |= self._sharpness()
        # Metrics that only describe the trial do not end it, whatever their values.
        metrics |= self.sums.sharpness() | self._costs()
        send = partial(self._report, self.meter.epoch, metrics)
        if self.saver is not None:
            self.saver.settle(wait=True)
        if self.saver is not None and finite and self._is_due():
            self._save(metrics, self.saver, send)
        else:
            send(None)
        return finite

    def _is_due(self) -> bool:
        every = int(self.config.task["checkpoint_every"])
        return self.meter.epoch % every == 0 or self.meter.finished()

    def _train_epoch(self) -> dict[str, float]:
        meter, lr = self.meter, float(self.config.knobs["lr"])
        self.sums, first_step = Sums(self.device), meter.step
        self.frozen.train()
        before, clock = (meter.data_s, meter.train_s), EpochClock(self.device)
        for share, inputs, targets in self.batches.epoch(meter.epoch):
            meter.data_s += clock.lap()

            self.frozen.thaw(meter.progress)
            share_of_lr = meter.lr_share
            for group in self.optimizer.base.param_groups:
                group["lr"] = lr * share_of_lr
            self.optimizer.set_progress(meter.progress, share_of_lr)
            compare = meter.step - first_step < _COMPARED
            result = self.steps(share, inputs, targets, compare=compare)
            self.sums.add(result, targets, share.copies)

            seconds = clock.lap()
            forward, backward, seconds = self.ranks.total(
                result.forward_samples / share.copies,
                result.backward_samples / share.copies,
                # One clock for all ranks: a budget of seconds ends at the same step in each.
                seconds if self.ranks.rank == 0 else 0.0,
            )
            meter.count(share.count, (round(forward), round(backward)), result.skipped, seconds)
            if self.average is not None and self.average.by_step:
                self.average.update(meter.progress)
                meter.eval_s += clock.rest()
            if self.saver is not None and self.ranks.size == 1:
                self.saver.settle(wait=False)
                clock.rest()
            if meter.finished() or meter.skipped_in_a_row >= SKIPS_IN_A_ROW:
                break
        # What was still queued on the device is training time.
        self.sums.settle(self.ranks)
        meter.train_s += self.ranks.first(clock.rest())
        meter.divide(before, clock.of_batches())
        self.ranks.check_equal(self.model)
        self.steps.average_norms()
        # Without a loss the trial has diverged, however good its untrained weights are.
        if meter.stuck(meter.step - first_step):
            self.sums.samples = 0
        return self.sums.trained() | {"lr": lr * share_of_lr}

    def _validate(self) -> dict[str, float]:
        started = perf_counter()
        metrics = evaluate(self.predict, self.val)
        if self.meter.finished():
            metrics |= self._sampled(self.val)
        self.meter.eval_s += perf_counter() - started
        return {f"val_{name}": value for name, value in metrics.items()}

    def _averaged(self, plain: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics of the averaged weights on validation, none without an average.

        Until the average begins they are the `plain` ones.
        """
        average, meter, started = self.average, self.meter, perf_counter()
        if average is None:
            return {}
        if not average.by_step:
            average.update(meter.progress)
        metrics = {name: plain[f"val_{name}"] for name in ("loss", "acc")}
        if average.begun:
            with average.shown():
                self._settle_norms(average)
                metrics = evaluate(self.predict, self.val)
            meter.averaged_samples += len(self.val)
        meter.eval_s += perf_counter() - started
        return {f"val_{name}_averaged": value for name, value in metrics.items()}

    def _settle_norms(self, average: Average) -> None:
        """Count BatchNorm's statistics anew for the averaged weights, which the model has now."""
        if not average.by_step and has_statistics(self.model):
            renew(self.model, self._training_images(), self.precision, self.frozen.norms)
            self.meter.averaged_samples += self.meter.n_train
        self.steps.average_norms()

    def _training_images(self) -> Iterator[Tensor]:
        """Yield this rank's share of each batch of the last epoch again, augmented alike."""
        for share, inputs, _ in self.batches.epoch(self.meter.epoch, mixed=False):
            self.steps.normalise_over(share)
            yield inputs

    def _test(self) -> dict[str, float]:
        started = perf_counter()
        split = open_test(self.config.task, self.config.seeds.split, self.config.test_permit)
        which = digest(split, self.config.task, self.data_sha256)
        split = self._resident(split)
        metrics, bits = evaluate_test(self.predict, split)
        self.tested = {"test_bits": bits, "test_split": which}
        metrics |= {f"test_{name}": value for name, value in self._sampled(split).items()}
        if self.average is not None:
            with self.average.shown():
                averaged, _ = evaluate_test(self.predict, split)
            self.meter.averaged_samples += len(split)
            metrics |= {f"{name}_averaged": averaged[name] for name in _ON_TEST}
        self.meter.eval_s += perf_counter() - started
        return metrics

    def _sharpness(self) -> dict[str, float]:
        """Return the sharpness of the trained model; every rank measures the same."""
        task, started = self.config.task, perf_counter()
        model = rebuilt(task, self.train, self.classes, self.model.state_dict())
        try:
            found = Measurement().of(
                model.to(self.device), self.train, self.predict.normalise, task
            )
        except RuntimeError as error:
            # No memory is left, or the model has an operator without a second derivative.
            warn(f"sharpness was not measured: {str(error).splitlines()[0]}")
            return {}
        self.meter.eval_s += perf_counter() - started
        return {name: float(value) for name, value in found.items() if name != "sharp_bn_mode"}

    def _sampled(self, split: Split) -> dict[str, float]:
        draws = int(self.config.task["posterior_samples"])
        return evaluate_posterior(self.predict, split, self.optimizer, draws)

    def _costs(self) -> dict[str, float]:
        meter, rho = self.meter, self._rho()
        return {
            "step": meter.step,
            "see": meter.see,
            "forward_samples": meter.forward_samples,
            "backward_samples": meter.backward_samples,
            "skipped_steps": meter.skipped_steps,
            "train_s": meter.train_s,
            "eval_s": meter.eval_s,
            "data_s": meter.data_s,
            **peak_memory(self.device),
            **({} if rho is None else {"rho": rho}),
            **({"averaged_forward_samples": meter.averaged_samples} if self.average else {}),
        }

    def _rho(self) -> float | None:
        """Return the radius of the last step, which a schedule may have changed."""
        return max(self.optimizer.radii) if isinstance(self.optimizer, Scheduled) else None

    def _facts(self) -> dict[str, Value]:
        # No CPU operation used here depends on timing, but a budget of seconds does.
        repeatable = self.device.type == "cpu" or torch.are_deterministic_algorithms_enabled()
        return {
            "n_train": self.meter.n_train,
            "n_val": len(self.val),
            "n_params": sum(parameter.numel() for parameter in self.model.parameters()),
            "device": self.device.type,
            "threads": self.threads,
            **({} if self.ranks.size == 1 else {"workers": self.ranks.size}),
            **self.precision.facts(),
            "data_sha256": self.data_sha256,
            "torch_version": str(torch.__version__),
            "deterministic": repeatable and self.config.budget.kind != "seconds",
            **self.tested,
            **({"sharp_bn_mode": Measurement().batch_norm} if self.config.sharpness else {}),
        }

    def _report(
        self, epoch: int, metrics: Mapping[str, float], saved: checkpoint.Saved | None
    ) -> None:
        report(
            epoch=epoch,
            checkpoint=str(saved.path) if saved else None,
            checkpoint_sha256=saved.sha256 if saved else None,
            facts=self._facts(),
            **metrics,
        )

    def _save(self, metrics: Mapping[str, float], saver: Saver, send: Send) -> None:
        """Begin to write a checkpoint, whose report is sent once it is on disk."""
        state = {
            "trial": identity(self.config),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "counters": self.meter.counters(),
            "scaler": self.steps.scaler.state_dict() if self.steps.scaler else {},
            "ranks": self.ranks.states(self._own_state()),
            "metrics": dict(metrics),
            "tested": self.tested,
        }
        if self.ranks.rank > 0:
            send(None)
            return
        saver.start(self.meter.epoch, state, send)
        # The others wait for the answer to this report at the end of the epoch.
        if self.ranks.size > 1 or self.meter.finished():
            saver.settle(wait=True)

    def _own_state(self) -> dict[str, Any]:
        """Return the state that differs between ranks: generators, and a variant's own memory."""
        differs = self.ranks.size > 1 and not self.config.task["sync_perturbation"]
        variant = self.optimizer.state_dict()["memory"] if differs else {}
        return {"rng": checkpoint.rng_state(self.device), "variant": variant}

    def _resume(self) -> bool:
        """Continue from the newest whole checkpoint, if any; return whether it was the last.

        Send its report again, because the interruption may have come between the two.
        """
        folder, path, state = self.config.checkpoint_dir, None, {}
        if folder is not None and self.ranks.rank == 0:
            path = checkpoint.latest(Path(folder))
            if path is not None:
                state = checkpoint.load(path)
                checkpoint.refuse_other_trial(path, *identities(state["trial"], self.config))
        # The other ranks may be on machines without the folder.
        state = self.ranks.broadcast(state)
        if not state:
            self.meter.charge(self.config.used)
            return False
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        if self.steps.scaler:
            self.steps.scaler.load_state_dict(state["scaler"])
        self.meter = dataclasses.replace(self.meter, **state["counters"])
        ended = self.meter.finished()
        self.meter.charge(self.config.used)
        own = state["ranks"][self.ranks.rank]
        checkpoint.restore_rng(own["rng"], self.device)
        if own["variant"]:
            memory = {"memory": own["variant"]}
            self.optimizer.load_state_dict(self.optimizer.state_dict() | memory)
        # A checkpoint of an earlier samtune has none.
        self.tested = state.get("tested", {})
        metrics = state["metrics"] | {"train_s": self.meter.train_s}
        self._report(self.meter.epoch, metrics, checkpoint.verify(path) if path else None)
        return ended
