"""Sets that do not fit: trials on streamed real images are those on images at hand, bit by bit.

A large folder is decoded as it is read, and what is mapped but larger than memory is read ahead.
They skip where there is no folder of the real images.
"""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from conftest import REAL, needs_real_images

from samtune.cluster.start import Cluster
from samtune.record.record import Record
from samtune.space.search_space import SearchSpace
from samtune.sweep.live import QuietView
from samtune.sweep.progress import Progress
from samtune.sweep.run_stages import run_stages
from samtune.sweep.search_stage import SearchStage
from samtune.sweep.stop import Stop
from samtune.trial import Budget, Seeds, TrialConfig, running
from trainables import data, split, vision
from trainables.data import DataError
from trainables.datasets import catalogue, paths

pytestmark = [pytest.mark.slow, needs_real_images]

LAB = '''
import os, threading

from samtune.optimizers import SAM
from trainables import split
from trainables.datasets import paths
from trainables.vision import Vision


class Streaming(Vision):
    """SAM where no set is small enough to be mapped unasked, and no map to be held."""

    def __call__(self, config):
        os.environ["SAMTUNE_DATA_ROOT"] = {root!r}
        paths.MAPPED, split._SHARE = 0, 0.0
        left = [thread.name for thread in threading.enumerate() if "batches" in thread.name]
        assert not left, f"the trial before left {{left}}"
        super().__call__(config)


streaming = Streaming(SAM)
'''
SPACE = """
samtune: 1
trainable: lab_of_streams:streaming
task: {{dataset: "{dataset}", batch_size: 32, augment: standard, mixup: 0.2, label_noise: 0.2}}
budget: {{kind: epochs, per_trial: 3}}
asha: {{grace: 2, factor: 2}}
search: {{method: grid}}
knobs: {{lr: {{grid: [0.05, 0.02]}}, rho: 0.05}}
"""
MEASURED = {"train_s", "eval_s", "data_s", "peak_rss_mb"}
Curve = dict[int, dict[str, float]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """300 real images for training and 50 for test, as a folder and as Parquet: their names."""
    place = tmp_path_factory.mktemp("images")
    (place / "parquet").mkdir()
    for part, count in (("train", 300), ("test", 50)):
        file = f"{part}-00000-of-00001.parquet"
        table = pq.read_table(REAL / "cifar10-jpeg" / file).slice(0, count)
        pq.write_table(table, place / "parquet" / file, row_group_size=70)
        for k, row in enumerate(table.to_pylist()):
            image, label = (row[name] for name in table.column_names)
            path = place / "folder" / part / str(label) / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image["bytes"])
    return {form: f"{form}:{place / form}" for form in ("folder", "parquet")}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty data root, where every set is streamed by this process too."""
    monkeypatch.setenv("SAMTUNE_DATA_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(paths, "MAPPED", 0)
    monkeypatch.setattr(split, "_SHARE", 0.0)
    forget()
    threads = torch.get_num_threads()
    yield tmp_path / "root"
    torch.set_num_threads(threads)
    forget()


def forget() -> None:
    data._train_val.cache_clear()
    data._test.cache_clear()


def exact(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in MEASURED}


def at_hand(config: TrialConfig) -> Curve:
    """The same trial with its images at hand, in this process."""
    reports: list[dict[str, Any]] = []
    config = replace(config, checkpoint_dir=None)
    with running(config, reports.append):
        vision.sam(config)
    return {report["epoch"]: exact(report["metrics"]) for report in reports}


class CutAtSecondReport(QuietView):
    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def refresh(self, progress: Progress) -> None:
        if sum(progress.used.values()) >= 2:
            self.stop.request()


def test_a_sweep_on_streams_cut_and_resumed_is_that_of_images_at_hand(
    images: dict[str, str],
    root: Path,
    two_slots: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Parquet cannot be read in any order, so it is mapped first, and the map is read ahead.
    catalogue.fetch(images["parquet"], None, 0, lambda _: None)
    made = sorted(root.rglob("*"))
    monkeypatch.chdir(tmp_path)
    Path("lab_of_streams.py").write_text(LAB.format(root=str(root)))
    spaces = []
    for form, dataset in images.items():
        Path(f"{form}.yaml").write_text(SPACE.format(dataset=dataset))
        spaces.append(SearchSpace.load(Path(f"{form}.yaml")))
    curves: dict[int, Curve] = defaultdict(dict)
    with record_of(tmp_path / "runs", spaces) as record:
        stop = Stop()
        run_stages([SearchStage(record, spaces)], record, two_slots, CutAtSecondReport(stop), stop)
        run_stages([SearchStage(record, spaces)], record, two_slots, QuietView(), Stop())
        trials = list(record.trials())
        causes = Counter(attempt["cause"] for attempt in record.attempts())
        for report in record.reports():
            curves[report.trial][report.epoch] = exact(report.metrics)
    assert len(trials) == 4 and {trial.state for trial in trials} <= {"completed", "pruned"}
    assert causes["stopped"], "the sweep was cut inside a trial"
    assert sorted(root.rglob("*")) == made, "a trial leaves nothing in the data root"

    monkeypatch.setattr(paths, "MAPPED", 2**30)
    monkeypatch.setattr(split, "_SHARE", 0.4)
    forget()
    for trial in trials:
        curve, wanted = curves[trial.trial], at_hand(trial.config)
        assert curve == {epoch: wanted[epoch] for epoch in curve}
        assert all(math.isfinite(value) for point in curve.values() for value in point.values())
        losses = [point["train_loss"] for point in curve.values()]
        assert losses == sorted(losses, reverse=True)


def test_a_bad_image_ends_the_trial_by_name_and_its_threads(
    images: dict[str, str], root: Path, tmp_path: Path
) -> None:
    shutil.copytree(images["folder"].partition(":")[2], tmp_path / "images")
    bad = sorted((tmp_path / "images" / "train").rglob("*.png"))[37]
    config = TrialConfig(
        trainable="trainables.vision:sam",
        variant="sam",
        base="sgd",
        knobs={},
        task={"dataset": f"folder:{tmp_path / 'images'}"},
        budget=Budget("epochs", 3),
        seeds=Seeds(1, 2, 3),
    )

    def spoil(_: object) -> None:
        bad.write_bytes(bad.read_bytes()[:500])

    before = threading.active_count()
    with pytest.raises(DataError, match=f"{bad} does not decode"), running(config, spoil):
        vision.sam(config)
    assert threading.active_count() == before


def record_of(runs: Path, spaces: Sequence[SearchSpace]) -> Record:
    settings = {"search_alg": "grid", "scheduler": "asha", "mode": "max", "trials": 0}
    studies = [
        {
            **{"name": space.name, "variant": space.variant, "base": space.base},
            **{"space": space.text, "sha256": space.sha256},
            "settings": json.dumps({**settings, "searched": ["lr"]}),
        }
        for space in spaces
    ]
    return Record.create(runs, "run", studies)
