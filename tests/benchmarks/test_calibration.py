"""The committed calibration keeps what the documents promise of the verdicts."""

from __future__ import annotations

import json

import pytest

from benchmarks.calibration import BOARDS, RESULT, cells, family_errors

FOUND = json.loads(RESULT.read_text())


def test_every_cell_is_within_its_bound() -> None:
    found, error = FOUND["cells"], FOUND["monte_carlo_error"]
    assert found.keys() == cells(1).keys() and FOUND["boards"] == BOARDS
    families = [cell for name, cell in found.items() if "variants" in name]
    assert len(families) == 27
    for cell in families:
        assert max(cell[plan] for plan in ("fixed 5", "fixed 10", "until decided")) <= (
            0.05 + 2 * error
        )
        assert cell["least rank coverage"] >= 0.95 - 2 * error
    for name, cell in found.items():
        if "power" in name:
            assert cell["simulated"] == pytest.approx(cell["computed"], abs=0.03)
        if "coverage over" in name:
            assert 0.93 <= cell <= 0.97


def test_a_few_boards_are_like_the_committed_ones() -> None:
    small = family_errors("unequal", 0.3, 3, 40)
    assert small.keys() == FOUND["cells"]["unequal, rho 0.3, 3 variants"].keys()
    assert small["fixed 5"] <= 0.25 and small["least rank coverage"] >= 0.75
