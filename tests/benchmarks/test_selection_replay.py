"""A search on a table of finished trials goes through samtune's own stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.selection import BUNDLES, found, with_errors


def test_the_winner_of_a_thrifty_search_is_the_best_of_a_table(tmp_path: Path) -> None:
    """Accuracy falls with the distance of lr from 0.05, in decades; a bundle shifts all alike."""
    epochs = list(range(1, 21))
    rows = [
        {
            **{"variant": "sgd", "config": config, "seed": bundle, "lr": float(lr)},
            **{"rho": None, "weight_decay": 5e-4, "used": [float(e) for e in epochs]},
            "val_acc": [
                0.9 - 0.1 * abs(np.log10(lr / 0.05)) - 0.2 / e + (bundle - 2001) / 1000
                for e in epochs
            ],
        }
        for config, lr in enumerate(np.geomspace(0.0011, 0.45, 9))
        for bundle in BUNDLES
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    winners = found(tmp_path / "table.parquet", "sgd", "thrifty", 3)
    for winner in winners:
        assert winner.true == winner.best
        # 16 trials to 8, at least the better third and two more to 16, and three whole ones.
        assert 16 * 8 + 7 * 8 + 60 <= winner.spent < 16 * 16 + 60
    assert [winner.bundle for winner in winners] == [2001, 2002, 2003]
    own = with_errors(winners, winners)
    assert own["share"] == {"value": 1, "error": 0} and own["off"]["value"] == 0
    promises = [winner.promise - winner.true for winner in winners]
    assert own["optimism"]["value"] == pytest.approx(100 * np.mean(promises))
