"""The meter of a budget: its forecast of a step, and steps that are skipped."""

from __future__ import annotations

import pytest

from samtune.trial import Budget
from trainables.budget import Meter


def test_a_meter_foresees_costs_that_depend_on_the_data() -> None:
    meter = Meter(Budget("compute", 1), n_train=100, batch_size=10)
    meter.step, meter.samples = 8, 80
    meter.forward_samples, meter.backward_samples = 120, 80
    # A step has cost 35 passes of 10 samples; 300 make the budget and 280 are spent.
    assert meter.see == pytest.approx(280 / 300)
    assert not meter.finished()
    meter.forward_samples += 3
    assert meter.finished()


def test_a_meter_counts_skips_in_a_row() -> None:
    meter = Meter(Budget("epochs", 1000), n_train=100, batch_size=10)

    def count(times: int, skipped: bool) -> None:
        for _ in range(times):
            meter.count(10, (10, 10), skipped, 0.0)

    count(99, True)
    count(1, False)
    count(99, True)
    assert meter.skipped_steps == 198 and not meter.stuck(200)
    count(1, True)
    assert meter.stuck(200)
