"""Tests of the division of an epoch's time between batches and steps."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from samtune.trial import Budget
from trainables.budget import Meter
from trainables.clock import EpochClock


@dataclass
class Event:
    """An event at a time of the device, in milliseconds."""

    times = iter(())
    enable_timing: bool

    def record(self) -> None:
        self.at = next(Event.times)

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


def test_a_gpus_time_is_divided_as_its_events_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPU defect 13. By the host's times the wait for a full queue could fall into any part."""
    monkeypatch.setattr(torch.cuda, "Event", Event)
    Event.times = iter((0, 1, 10, 12, 20))
    clock = EpochClock(torch.device("cuda"))
    laps = [clock.lap() for _ in range(4)]
    assert min(laps) >= 0
    assert clock.of_batches() == pytest.approx(3 / 20)
    meter = Meter(Budget("epochs", 2), n_train=8, batch_size=4, data_s=5.0, train_s=3.0)
    meter.divide((1.0, 2.0), clock.of_batches())
    # Of five seconds of this epoch.
    assert (meter.data_s, meter.train_s) == pytest.approx((1.75, 6.25))


def test_the_hosts_clock_is_right_on_the_cpu_and_for_a_budget_of_seconds() -> None:
    clock = EpochClock(torch.device("cpu"))
    clock.lap()
    assert clock.of_batches() is None
    for budget, share in ((Budget("epochs", 2), None), (Budget("seconds", 9), 0.5)):
        meter = Meter(budget, n_train=8, batch_size=4, data_s=5.0, train_s=3.0)
        meter.divide((1.0, 2.0), share)
        assert (meter.data_s, meter.train_s) == (5.0, 3.0)
