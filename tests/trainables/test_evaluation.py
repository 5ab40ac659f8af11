"""Scores of calibration on cases with known values."""

from __future__ import annotations

import pytest
import torch

from trainables.evaluation import brier_score, calibration_error


def test_the_brier_score_of_known_cases() -> None:
    sure = torch.eye(3)
    assert brier_score(sure, torch.arange(3)) == 0
    assert brier_score(sure, torch.tensor([1, 2, 0])) == 2
    # (1 - 0.7)^2 + 0.2^2 + 0.1^2, and 0.7^2 + (1 - 0.2)^2 + 0.1^2.
    unsure = torch.tensor([[0.7, 0.2, 0.1]]).expand(2, 3)
    assert brier_score(unsure, torch.tensor([0, 1])) == pytest.approx((0.14 + 1.14) / 2)


def test_calibration_error_of_known_cases() -> None:
    sure_and_right = torch.eye(3)
    assert calibration_error(sure_and_right, torch.arange(3)) == 0
    assert calibration_error(sure_and_right, torch.tensor([1, 2, 0])) == 1
    # Four predictions at 0.75 of which three are right, two at 0.6 of which none is.
    probabilities = torch.tensor([[0.75, 0.25]] * 4 + [[0.4, 0.6]] * 2)
    labels = torch.tensor([0, 0, 0, 1, 0, 0])
    assert calibration_error(probabilities, labels) == pytest.approx(2 / 6 * 0.6, abs=1e-7)
    # In one bin the errors of the two groups cancel in part: mean confidence 0.7, accuracy 0.5.
    assert calibration_error(probabilities, labels, bins=1) == pytest.approx(0.2, abs=1e-7)
