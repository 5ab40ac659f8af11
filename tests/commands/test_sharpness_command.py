"""`samtune sharpness` on repeats that were trained without Ray."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_record import CONFIG, STUDY, message
from typed import typed

import samtune
from samtune.api.sharpness import SETTINGS
from samtune.record import tables
from samtune.record.record import Record
from samtune.trial import Budget, Seeds, TrialConfig, running
from trainables import vision
from trainables.measurement import Measurement

QUICK = ("--samples", "32", "--m", "16")


def confirmed(record: Record, study: int, config: TrialConfig, bundles: int) -> None:
    """Give a study a winner, and train its repeats for one epoch."""
    winner = record.add_trial(study, "search", 0, "default", config)
    attempt, _ = record.start_attempt(winner)
    record.add_report(winner.trial, attempt, message(1, 0.9), "val_acc")
    record.end_trial(winner.trial, "completed")
    for bundle in range(bundles):
        seeds = Seeds(bundle, bundle, bundle)
        trial = record.add_trial(
            study,
            "confirm",
            bundle,
            "repeat",
            dataclasses.replace(config, seeds=seeds),
            source=winner.trial,
            rank=0,
            bundle=bundle,
        )
        attempt, permit = record.start_attempt(trial)
        given = dataclasses.replace(trial.config, test_permit=permit)
        number = trial.trial

        def send(report: dict[str, object], number: int = number, attempt: int = attempt) -> None:
            record.add_report(number, attempt, report, "val_acc")

        with running(given, send):
            getattr(vision, config.variant)(given)
        record.end_trial(number, "completed")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of runs with `two`: sgd and sam, two repeats each."""
    runs = tmp_path_factory.mktemp("sharp") / "runs"
    studies = [
        STUDY | {"name": name, "variant": name, "sha256": name * 16} for name in ("sgd", "sam")
    ]
    config = dataclasses.replace(CONFIG, budget=Budget("epochs", 1.0), knobs={"lr": 0.05})
    with Record.create(runs, "two", studies, {}) as record, record.lock():
        for study, name in enumerate(("sgd", "sam")):
            own = dataclasses.replace(config, trainable=f"trainables.vision:{name}", variant=name)
            confirmed(record, study, own, 2)
    return runs


@pytest.fixture
def two(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that run in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "runs")
    return Path("runs/two")


def test_repeats_are_measured_once_and_stand_in_the_tables(
    two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = typed(capsys, "sharpness", "two", "--rows", "sam", *QUICK)
    assert code == 0
    assert "Of 32 training images, m 16, rho 0.1, BatchNorm in eval mode:" in out
    assert "sam" in out and "sgd" not in out
    assert err.count("measuring") == 2

    code, out, err = typed(capsys, "sharpness", "two", *QUICK, "--json")
    assert code == 0 and err.count("measuring") == 2, "those of sam are on record"
    rows = {row["space"]: row for row in json.loads(out)["rows"]}
    repeats = tables.read(two / "repeats.parquet", "repeats").to_pandas()
    for name, own in repeats.groupby("space"):
        row = rows[name]
        assert row["sharp_lambda_max_mean"] == pytest.approx(own["sharp_lambda_max"].mean())
        assert (own["sharp_worst_rho"] > 0).all() and own["sharp_worst_rho"].nunique() == 2
        assert (row["sharp_samples"], row["sharp_m"], row["sharp_rho"]) == (32, 16, 0.1)
        assert set(own["sharp_bn_mode"]) == {"eval"}

    # Python does what the command does.
    run = samtune.load("two", two.parent)
    (row,) = run.sharpness("sgd", samples=32, m=16, rho=0.2).to_dict("records")
    assert capsys.readouterr().err.count("measuring") == 2
    assert (row["space"], row["sharp_samples"], row["sharp_rho"]) == ("sgd", 32, 0.2)
    again = tables.read(two / "repeats.parquet", "repeats").to_pandas().set_index("trial_key")
    before = repeats.set_index("trial_key")["sharp_worst_rho"]
    wider = again["space"] == "sgd"
    assert (again["sharp_worst_rho"] > before)[wider].all()
    assert (again["sharp_worst_rho"] == before)[~wider].all()


def test_a_removed_checkpoint_is_named_and_the_others_are_measured(
    two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Record.open(Path("runs"), "two", read_only=True) as record:
        first = next(record.trials(stage="confirm"))
    assert first.config.checkpoint_dir is not None
    shutil.rmtree(first.config.checkpoint_dir)
    code, out, err = typed(capsys, "sharpness", "two", "--rows", "sgd", *QUICK)
    assert code == 3
    assert "not measured: sgd, seed bundle 0: " in err and "has no checkpoint" in err
    assert "sgd" in out


def test_a_gpu_that_is_full_is_named_and_the_others_are_measured(
    two: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    of, full = Measurement.of, [True]

    def once(self: Measurement, *words: Any) -> dict[str, Any]:
        if full:
            full.clear()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return of(self, *words)

    monkeypatch.setattr(Measurement, "of", once)
    code, out, err = typed(capsys, "sharpness", "two", "--rows", "sgd", *QUICK)
    assert code == 3 and "sgd" in out
    assert "not measured: sgd, seed bundle 0: CUDA out of memory. Tried to allocate 2 GiB\n" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["two", "--rows", "sgdd"], "two has no row 'sgdd'; did you mean 'sgd'?"),
        (["three"], "no run 'three'"),
        (["two", "--rho", "0"], "Invalid value for '--rho'"),
    ],
)
def test_mistakes_are_sentences(
    two: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    code, _, err = typed(capsys, "sharpness", *words)
    assert code == 2 and sentence in err


def test_an_own_trainable_says_what_it_lacks(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flatless.py").write_text("def train(config):\n    pass\n")
    config = dataclasses.replace(CONFIG, trainable="flatless:train")
    with Record.create(runs, "own", [STUDY], {}) as record, record.lock():
        record.add_trial(0, "search", 0, "default", config)
    code, _, err = typed(capsys, "sharpness", "own", "--runs", str(runs))
    assert code == 2 and "flatless:train has no method sharpness(config, settings)" in err
    sys.modules.pop("flatless", None)


def test_a_run_without_repeats_says_what_makes_them(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Record.create(runs, "new", [STUDY], {}) as record, record.lock():
        record.add_trial(0, "search", 0, "default", CONFIG)
    code, _, err = typed(capsys, "sharpness", "new", "--runs", str(runs))
    assert code == 2 and "`samtune confirm new` makes them" in err


def test_the_defaults_are_those_of_the_trainables() -> None:
    assert dataclasses.asdict(Measurement()) == SETTINGS
