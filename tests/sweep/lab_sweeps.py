"""Sweeps of spaces in this process: their record, and one search through Ray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from samtune.cluster.start import Cluster
from samtune.record.record import Record
from samtune.record.rows import TrialRow
from samtune.space.search_space import SearchSpace
from samtune.sweep.live import QuietView
from samtune.sweep.progress import Progress
from samtune.sweep.run_stages import run_stages
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.stop import Stop


def record_of(runs: Path, spaces: Sequence[SearchSpace], name: str = "run") -> Record:
    settings = {
        **{"search_alg": "grid", "scheduler": "asha", "mode": "max", "trials": 0},
        "searched": ["lr"],
    }
    return Record.create(
        runs,
        name,
        [
            {
                **{"name": s.name, "variant": s.variant, "base": s.base, "space": s.text},
                **{"sha256": s.sha256, "settings": json.dumps(settings)},
            }
            for s in spaces
        ],
    )


def sweep(
    record: Record, spaces: Sequence[SearchSpace], on: Cluster, stop: Stop | None = None
) -> Progress:
    stages = [SearchStage(record, spaces)]
    return run_stages(stages, record, on, QuietView(), stop or Stop())[0]


def by_mode(record: Record) -> dict[Any, TrialRow]:
    return {trial.config.knobs["mode"]: trial for trial in record.trials()}


def one_at_a_time(on: Cluster) -> Cluster:
    """Return a cluster with one slot, so that trials run in the order of the grid."""
    return replace(on, slots=1)
