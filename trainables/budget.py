"""The budget of a trial: how much is spent, and when the trial ends."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property

from samtune.optimizers import sizes
from samtune.trial import Budget
from trainables.schedule import Schedule

SKIPS_IN_A_ROW = 100
"""Skipped steps that end a trial. A loss scaler needs 16 to go from 2^16 to 1."""
_CALIBRATION = 16


@dataclass
class Meter:
    """Counters of one trial, which also show its progress in training.

    Attributes:
        budget: what the trial may spend.
        n_train: training images.
        batch_size: images per step.
        schedule: of the learning rate; its warm-up is in epochs, whatever the budget's unit.
        epoch: epochs begun.
        step: steps made, skipped ones included.
        samples: images of these steps.
        forward_samples: samples of all forward passes.
        backward_samples: samples of all backward passes.
        averaged_samples: samples of forward passes at averaged weights; no training.
        skipped_steps: steps that a loss scaler skipped.
        skipped_in_a_row: skipped steps since the last one that was not.
        train_s: seconds in steps.
        eval_s: seconds in evaluation.
        data_s: seconds in making batches.
        epoch_progress: progress at the start of the current epoch.
    """

    budget: Budget
    n_train: int
    batch_size: int
    schedule: Schedule = field(default_factory=Schedule)
    epoch: int = 0
    step: int = 0
    samples: int = 0
    forward_samples: int = 0
    backward_samples: int = 0
    averaged_samples: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    train_s: float = 0.0
    eval_s: float = 0.0
    data_s: float = 0.0
    epoch_progress: float = 0.0

    @cached_property
    def batches(self) -> list[int]:
        """Sizes of the batches of an epoch.

        A rest of one image joins the batch before it, since BatchNorm needs two.
        """
        return sizes.at_most(self.batch_size, self.n_train, least=min(2, self.batch_size))

    def count(self, samples: int, cost: tuple[int, int], skipped: bool, seconds: float) -> None:
        """Add a step.

        A skipped step counts as well: its passes were made, so it spends budget and moves the
        schedules, which follow the budget.

        Args:
            samples: images of its batch.
            cost: samples of its forward and of its backward passes.
            skipped: the weights did not change.
            seconds: time it took.
        """
        self.step += 1
        self.samples += samples
        self.forward_samples += cost[0]
        self.backward_samples += cost[1]
        self.skipped_steps += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        self.train_s += seconds
        if self.step % len(self.batches) == 0:
            self.epoch_progress = self.progress

    def divide(self, before: tuple[float, float], of_batches: float | None) -> None:
        """Divide an epoch's seconds between batches and steps as the device did.

        A budget in seconds keeps what the host counted: it must never become less.

        Args:
            before: `data_s` and `train_s` at the begin of the epoch.
            of_batches: the share of the batches; None keeps the host's.
        """
        if of_batches is None or self.budget.kind == "seconds":
            return
        seconds = self.data_s + self.train_s - sum(before)
        self.data_s = before[0] + of_batches * seconds
        self.train_s = before[1] + (1 - of_batches) * seconds

    def charge(self, used: float) -> None:
        """Count the seconds that earlier attempts used after the checkpoint of this one."""
        if self.budget.kind == "seconds":
            self.train_s = max(self.train_s, used)

    def finished(self) -> bool:
        """Return whether less than half of the next step's cost is left of the budget.

        The first step always fits. The cost of the next one follows from what a sample has cost
        so far, which also serves variants whose cost depends on the data.
        """
        if self.step == 0:
            return False
        spent = self.spent
        if self.budget.kind == "epochs":
            next_cost = spent / self.step
        else:
            next_cost = spent / self.samples * self.batches[self.step % len(self.batches)]
        return 2 * (self.budget.per_trial - spent) < next_cost

    def stuck(self, steps: int) -> bool:
        """Return whether all further steps would be skipped, at the end of an epoch of `steps`.

        This is so after 100 skipped steps in a row. It is also so after a wholly skipped epoch,
        once a loss scaler has had its `_CALIBRATION` steps or the budget is spent.
        """
        last = self.skipped_in_a_row
        whole = last >= steps and (last >= _CALIBRATION or self.finished())
        return last >= SKIPS_IN_A_ROW or whole

    @property
    def see(self) -> float:
        """SGD-epoch equivalents: a forward pass costs one, a backward two, an SGD epoch three."""
        return (self.forward_samples + 2 * self.backward_samples) / (3 * self.n_train)

    @property
    def spent(self) -> float:
        """The amount spent, in the budget's unit."""
        match self.budget.kind:
            case "compute":
                return self.see
            case "epochs":
                return self.step / len(self.batches)
            case "seconds":
                return self.train_s

    @property
    def progress(self) -> float:
        """Share of the budget that is spent: 0 at the start, about 1 at the end."""
        return self.spent / self.budget.per_trial

    @property
    def lr_share(self) -> float:
        """Share of the full learning rate for the next step.

        The warm-up multiplies the schedule with a line, 1 / k in the first of k steps and 1 in the
        last (Goyal et al. 2017, 2.2).
        """
        by_epoch = self.schedule.by_epoch
        share = self.schedule.share(self.epoch_progress if by_epoch else self.progress)
        rising = self.schedule.warmup * self.n_train
        done = self.samples + self.batch_size
        if by_epoch:
            done = (self.step // len(self.batches) + 1) * self.n_train
        return share * done / rising if done < rising else share

    def counters(self) -> dict[str, int | float]:
        """Return the counters; `dataclasses.replace(meter, **counters)` resumes."""
        given = ("budget", "n_train", "batch_size", "schedule")
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in given
        }
