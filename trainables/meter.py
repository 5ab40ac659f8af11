"""What a trial has spent of its budget, and when that is all of it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from samtune.trial import Budget

SKIPS_IN_A_ROW = 100
"""That end a trial. A loss scaler that starts at 2^16 has halved it to 1 after 16."""
_CALIBRATION = 16


@dataclass
class Meter:
    """Counters of one trial. As batches are drawn anew for each epoch, also its whole position.

    `warmup` is in epochs, whatever the unit of the budget is. Times are in seconds and exclude
    each other: steps, evaluation, making batches.
    """

    budget: Budget
    n_train: int
    batch_size: int
    warmup: float = 0.0
    epoch: int = 0
    step: int = 0
    samples: int = 0
    forward_samples: int = 0
    backward_samples: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    train_s: float = 0.0
    eval_s: float = 0.0
    data_s: float = 0.0

    def count(self, samples: int, cost: tuple[int, int], skipped: bool, seconds: float) -> None:
        """Adds a step on a batch of `samples`; its cost in forward and backward samples.

        A skipped step is one as well: its passes were made, so that the budget is spent and the
        schedules, which follow the budget, go on.
        """
        self.step += 1
        self.samples += samples
        self.forward_samples += cost[0]
        self.backward_samples += cost[1]
        self.skipped_steps += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        self.train_s += seconds

    def charge(self, used: float) -> None:
        """Count seconds that earlier attempts used after the checkpoint that this one has."""
        if self.budget.kind == "seconds":
            self.train_s = max(self.train_s, used)

    def finished(self) -> bool:
        """Whether less than half of the next step's cost is left; one step always fits.

        That cost is foreseen from what a sample has cost so far, so a variant whose cost depends
        on the data needs nothing more.
        """
        if self.step == 0:
            return False
        spent = self.spent
        if self.budget.kind == "epochs":
            next_cost = spent / self.step
        else:
            next_size = min(self.batch_size, self.n_train - self.samples % self.n_train)
            next_cost = spent / self.samples * next_size
        return 2 * (self.budget.per_trial - spent) < next_cost

    def stuck(self, steps: int) -> bool:
        """Whether steps are skipped for good, at the end of an epoch of `steps`: 100 in a row, or
        the whole epoch, once a loss scaler has had its chance or the budget is spent."""
        last = self.skipped_in_a_row
        whole = last >= steps and (last >= _CALIBRATION or self.finished())
        return last >= SKIPS_IN_A_ROW or whole

    @property
    def see(self) -> float:
        """SGD-epoch equivalents: a forward pass costs one, a backward two, an SGD epoch three."""
        return (self.forward_samples + 2 * self.backward_samples) / (3 * self.n_train)

    @property
    def spent(self) -> float:
        """In the budget's own unit."""
        match self.budget.kind:
            case "compute":
                return self.see
            case "epochs":
                return self.step / math.ceil(self.n_train / self.batch_size)
            case "seconds":
                return self.train_s

    @property
    def progress(self) -> float:
        """The share of the budget that is spent: 0 at the start, about 1 at the end."""
        return self.spent / self.budget.per_trial

    @property
    def lr_share(self) -> float:
        """The share of the full learning rate due to the next step.

        A cosine over the budget, 1 at the start and 0 when all is spent; in the warm-up times a
        line, of which the first of k steps has 1 / k and the last has 1 (Goyal et al. 2017, 2.2).
        """
        cosine = (1 + math.cos(math.pi * self.progress)) / 2
        rising = self.warmup * self.n_train
        done = self.samples + self.batch_size
        return cosine * done / rising if done < rising else cosine

    def counters(self) -> dict[str, int | float]:
        """All but the configuration; `dataclasses.replace(meter, **counters)` resumes."""
        given = ("budget", "n_train", "batch_size", "warmup")
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in given
        }
