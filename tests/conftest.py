"""What tests share: the folder of real images, and one Ray for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Two trials at a time on two cores: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def two_slots() -> Iterator[object]:
    """A Ray of our own with room for two trials; started once."""
    from samtune.cluster import cluster
    from samtune.space import SearchSpace

    space = SearchSpace.load("sgd", ["resources.parallel=2"])
    with cluster([space.resources]) as on:
        yield on


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"
