"""Runs of many reports: exported in batches, stored in little space, and counted whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_record import message

from benchmarks.scale_tables import make_run
from samtune.record import curves as exporting
from samtune.record import tables
from samtune.record.export import export
from samtune.record.record import Record
from samtune.views.status import status_of
from samtune.views.trials import trials_of


def test_batches_of_reports_make_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, "wide", 30, 8)
    made = []
    with Record.open(tmp_path, "wide", read_only=True) as record:
        for size in (7, 100_000):
            monkeypatch.setattr(exporting, "_REPORTS_AT_ONCE", size)
            export(record, tmp_path)
            paths = {t: tmp_path / f"{t}.parquet" for t in ("trials", "curves", "repeats")}
            made.append({t: tables.read(path, t).to_pylist() for t, path in paths.items()})
    assert made[0] == made[1]
    curves, trials = made[0]["curves"], made[0]["trials"]
    assert len(curves) == 35 * 8 and len(trials) == 30 and len(made[0]["repeats"]) == 5
    assert [row["attempts"] for row in trials[8:11]] == [1, 2, 1]
    assert trials[0]["rung_reached"] == 1 and trials[0]["epochs_done"] == 8
    best = max(curves[:8], key=lambda row: row["val_acc"])
    assert (trials[0]["best_val_acc"], trials[0]["best_epoch"]) == (best["val_acc"], best["epoch"])
    assert trials[0]["val_acc"] == curves[7]["val_acc"]


def test_a_report_takes_less_than_a_kilobyte(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "wide", 100, 20)
    with Record.open(tmp_path, "wide") as record:
        stored = record.query("SELECT metrics FROM reports LIMIT 1").fetchone()[0]
        record.add_report(1, 0, {**message(1, 0.5), "metrics": json.loads(stored)}, "val_acc")
        own = record.query("SELECT metrics FROM reports ORDER BY seq DESC").fetchone()[0]
        assert own == stored, "the record writes what the benchmark measures"
    assert (folder / "sweep.db").stat().st_size / 2100 < 1024


def test_trials_of_many_are_counted_whole(tmp_path: Path) -> None:
    make_run(tmp_path, "wide", 200, 2)
    with Record.open(tmp_path, "wide", read_only=True) as record:
        assert len(trials_of(record)) == 205 and len(trials_of(record, state="pruned")) == 0
        (study,) = status_of(record)["studies"]
    assert study["states"] == {"completed": 200} and study["repeats"] == {"completed": 5}
    assert study["rungs"] == []
