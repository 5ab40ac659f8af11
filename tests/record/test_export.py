"""The tables of a run: any metric has its columns, and what was not measured is null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_record import CONFIG, STUDY

from samtune.api.tables import write_tables
from samtune.record import tables
from samtune.record.export import export
from samtune.record.record import Record
from samtune.record.rows import State, TrialRow
from samtune.trial import TrialConfig

F1 = TrialConfig.from_dict({**CONFIG.to_dict(), "metric": "f1", "task": {}})


def add(
    record: Record,
    stage: Any,
    number: int,
    reports: list[Mapping[str, float]],
    state: State = "completed",
    facts: Mapping[str, Any] | None = None,
    config: TrialConfig = F1,
    **more: Any,
) -> TrialRow:
    """Add a trial that reports these metrics, one epoch each."""
    trial = record.add_trial(0, stage, number, "sampled", config, **more)
    attempt, _ = record.start_attempt(trial)
    for epoch, metrics in enumerate(reports, 1):
        report = {"epoch": epoch, "used": float(epoch), "metrics": dict(metrics)}
        report |= {"checkpoint": None, "checkpoint_sha256": None, "facts": facts or {}}
        record.add_report(trial.trial, attempt, report, config.metric)
    record.end_trial(trial.trial, state)
    return trial


def exported(record: Record) -> dict[str, pa.Table]:
    """Return all tables, read by pyarrow alone."""
    write_tables(record)
    return {name: pq.read_table(record.folder / f"{name}.parquet") for name in tables.VERSIONS}


def test_any_metric_stands_in_every_table(runs: Path) -> None:
    with Record.create(runs, "mine", [STUDY]) as record:
        best = add(record, "search", 0, [{"f1": 0.5, "recall": 0.1}, {"f1": 0.4, "recall": 0.2}])
        add(record, "search", 1, [{"f1": 0.3, "recall": 0.2}])
        again = [
            add(
                record,
                "confirm",
                k,
                [{"f1": 0.2}, {"f1": 0.3 + k / 10, "test_f1": 0.25 + k / 10}],
                **{"source": best.trial, "rank": 0, "bundle": k},
            )
            for k in range(2)
        ]
        found = exported(record)
    assert found["curves"].column("f1").to_pylist() == [0.5, 0.4, 0.3, 0.2, 0.3, 0.2, 0.4]
    assert found["curves"].column("recall").to_pylist()[:3] == [0.1, 0.2, 0.2]
    assert found["curves"].column("test_f1").to_pylist()[-1] == 0.35
    trials = found["trials"].to_pylist()
    assert [(row["f1"], row["best_f1"], row["best_epoch"]) for row in trials] == [
        (0.4, 0.5, 1),
        (0.3, 0.3, 1),
    ]
    assert trials[0]["metric"] == "f1" and trials[0]["mode"] == "max"
    assert trials[0]["label_noise"] is None and trials[0]["val_acc"] is None
    repeats = found["repeats"].to_pylist()
    assert [(row["f1"], row["test_f1"]) for row in repeats] == [(0.3, 0.25), (0.4, 0.35)]
    assert [row["test_openings"] for row in repeats] == [1, 1]
    (row,) = found["leaderboard"].to_pylist()
    assert row["test_f1_mean"] == pytest.approx(0.3) and row["rank"] == 1
    assert row["best_f1"] == 0.4 and row["f1_mean"] == pytest.approx(0.35)
    assert row["test_metric"] == "test_f1"
    # A repeat's curve is found by its own key.
    keys = [row["trial_key"] for row in repeats]
    assert keys == [trial.key for trial in again]
    assert set(keys) < set(found["curves"].column("trial_key").to_pylist())


def test_trials_made_before_a_word_answer_the_same_question(runs: Path) -> None:
    older = TrialConfig.from_dict({**F1.to_dict(), "task": {"dataset": "d"}})
    newer = TrialConfig.from_dict({**F1.to_dict(), "task": {"dataset": "d", "new": 1}})
    space = "task:\n  dataset: d\n  new: 1\n  unused: 2\n"
    with Record.create(runs, "mine", [STUDY | {"space": space}]) as record:
        add(record, "search", 0, [{"f1": 0.5}], config=older)
        add(record, "search", 1, [{"f1": 0.5}], config=newer)
        tasks = exported(record)["trials"].column("task").to_pylist()
    assert [json.loads(task) for task in tasks] == [{"dataset": "d", "new": 1}] * 2


def test_every_table_says_where_it_comes_from(runs: Path) -> None:
    ranges = {"lr": (1e-3, 0.5, "log")}
    settings = json.dumps(json.loads(STUDY["settings"]) | {"ranges": ranges})
    with Record.create(runs, "mine", [STUDY | {"settings": settings}]) as record:
        add(record, "search", 0, [{"f1": 0.5}], facts={"data_sha256": "d" * 64})
        found = exported(record)
    for table in found.values():
        metadata = table.schema.metadata
        assert metadata[b"samtune.run"] == b"mine" and metadata[b"samtune.version"]
        assert metadata[b"samtune.space_sha256"] == b"0" * 64
        assert metadata[b"samtune.data_sha256"] == b"d" * 64
    assert json.loads(found["trials"].schema.metadata[b"samtune.ranges"]) == [
        ["lr", 0.001, 0.5, "log"]
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_was_not_measured_is_null_for_every_reader(runs: Path, value: float) -> None:
    with Record.create(runs, "mine", [STUDY]) as record:
        odd = {"f1": value, "val_loss": value, "own": value, "step": value, "n_test": value}
        best = add(record, "search", 0, [{"f1": 0.5, "own": 1.0}, {"f1": 0.5, "own": value}])
        add(record, "search", 1, [{"f1": 0.4}, odd], "diverged")
        more = {"source": best.trial, "rank": 0}
        add(record, "confirm", 1, [{"f1": 0.4, "test_f1": value}], bundle=0, **more)
        add(record, "confirm", 2, [{"f1": 0.4}, odd], "diverged", bundle=1, **more)
        found = exported(record)
    for name, table in found.items():
        for column in table.column_names:
            held = table.column(column).to_pylist()
            floats = [each for each in held if isinstance(each, float)]
            assert all(map(math.isfinite, floats)), (name, column)
    assert found["curves"].column("own").to_pylist() == [1.0, None, None, None, None, None, None]
    assert found["curves"].column("step").null_count == 7


def test_a_knob_or_value_that_is_not_finite_is_null(tmp_path: Path) -> None:
    typed = tables.schema("curves", floats=["own"], knobs={"c": [math.nan], "n": [2**70]})
    rows = [{"own": math.inf, "knob.c": math.nan, "knob.n": 2**70}]
    nullable = pa.schema([field.with_nullable(True) for field in typed], typed.metadata)
    tables.write(tmp_path / "curves.parquet", nullable, rows)
    (row,) = pq.read_table(tmp_path / "curves.parquet").to_pylist()
    assert row["own"] is None and row["knob.c"] is None and row["knob.n"] == str(2**70)


def test_metrics_of_any_name_and_size_are_kept_apart_from_the_columns(runs: Path) -> None:
    names = ["attempt", "state", "run", "knob.lr", "epoch", "value", "e f", "quo'te"]
    metrics = {"f1": 0.5, "step": 2.5, "big": 2.0**80, **dict.fromkeys(names, 7.0)}
    with Record.create(runs, "mine", [STUDY]) as record:
        add(record, "search", 0, [metrics])
        found = exported(record)
    (curve,), (trial,) = (found[name].to_pylist() for name in ("curves", "trials"))
    assert curve["metric.attempt"] == 7 and curve["attempt"] == 0 and curve["metric.run"] == 7
    assert curve["value"] == curve["e f"] == curve["quo'te"] == 7
    assert curve["big"] == 2.0**80 and curve["step"] == 2
    assert trial["metric.state"] == 7 and trial["state"] == "completed" and trial["run"] == "mine"
    assert trial["metric.knob.lr"] == 7 and trial["knob.lr"] == 0.1


@pytest.mark.parametrize(
    "facts",
    [{"n_train": "many"}, {"n_params": 5.5}, {"device": 3}, {"threads": 2**40}],
)
def test_a_fact_that_does_not_fit_its_column_is_left_out(
    runs: Path, facts: dict[str, Any]
) -> None:
    with Record.create(runs, "mine", [STUDY]) as record:
        add(record, "search", 0, [{"f1": 0.5}], facts={**facts, "precision": "fp32"})
        (trial,) = exported(record)["trials"].to_pylist()
    assert trial["precision"] == "fp32"
    assert trial[next(iter(facts))] is None


def test_only_a_reported_test_metric_is_an_opening(runs: Path) -> None:
    with Record.create(runs, "mine", [STUDY]) as record:
        best = add(record, "search", 0, [{"f1": 0.5}])
        more = {"source": best.trial, "rank": 0}
        add(record, "confirm", 1, [], "error", bundle=0, **more)
        add(record, "confirm", 2, [{"f1": 0.1}], "cancelled", bundle=1, **more)
        add(record, "confirm", 3, [{"f1": 0.1, "test_recall": 0.2}], bundle=2, **more)
        found = exported(record)
    assert found["repeats"].column("test_openings").to_pylist() == [0, 0, 1]
    assert found["leaderboard"].column("test_openings").to_pylist() == [1]


def test_bits_of_the_test_split_are_bytes(runs: Path) -> None:
    with Record.create(runs, "mine", [STUDY]) as record:
        best = add(record, "search", 0, [{"f1": 0.5}])
        for bundle, text in enumerate((None, "oIA=", "no bits")):
            facts = {"test_bits": text} if text else {}
            more = {"source": best.trial, "rank": 0, "bundle": bundle, "facts": facts}
            add(record, "confirm", bundle, [{"f1": 0.1, "test_f1": 0.2}], **more)
        found = exported(record)["repeats"]
    assert found.column("test_bits").to_pylist() == [None, b"\xa0\x80", None]


def test_the_tables_of_a_running_sweep_are_of_one_moment(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Record.create(runs, "mine", [STUDY]) as writer:
        add(writer, "search", 0, [{"f1": 0.5}])
        write = tables.write

        def meanwhile(*arguments: Any) -> None:
            add(writer, "search", len(list(writer.trials())), [{"f1": 0.5, "late": 1.0}])
            write(*arguments)

        monkeypatch.setattr(tables, "write", meanwhile)
        with Record.open(runs, "mine", read_only=True) as record:
            export(record)
        monkeypatch.undo()
        assert len(list(writer.trials())) == 5
    for name in ("trials", "curves"):
        assert pq.read_table(runs / "mine" / f"{name}.parquet").num_rows == 1
