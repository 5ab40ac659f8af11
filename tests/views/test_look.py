"""Looking at runs: what the record is asked, and what its readers are told."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from run_two import SETTINGS, add, make_two, message, said
from typed import typed

from samtune.commands.trials import _STATES
from samtune.record.record import Record
from samtune.record.rows import State
from samtune.space.search_space import SearchSpace
from samtune.trial import Budget, Seeds, TrialConfig
from samtune.views import status as looking
from samtune.views.status import status_of, status_text, watched
from samtune.views.trials import sparkline


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_two(tmp_path_factory.mktemp("look") / "runs")


def test_a_look_cannot_write(two: Path) -> None:
    with (
        Record.open(two, "two", read_only=True) as record,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        record.add_event("note")


def test_a_look_at_a_medium_that_cannot_be_written(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    folder.joinpath("sweep.db").write_bytes((two / "two" / "sweep.db").read_bytes())
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Record.open(tmp_path, "two", read_only=True) as record:
        assert len(list(record.trials())) == 7
    assert [path.name for path in folder.iterdir()] == ["sweep.db"]


def test_status_reads_no_report_but_the_last_of_each_trial(two: Path) -> None:
    asked: list[str] = []
    with Record.open(two, "two", read_only=True) as record:
        record._db.set_trace_callback(asked.append)
        told = status_of(record)
        record._db.set_trace_callback(None)
        for question in asked:
            plan = [row["detail"] for row in record.query(f"EXPLAIN QUERY PLAN {question}")]
            # Rows of `reports` are looked up by number; the index on (trial, seq) gives those.
            assert not [step for step in plan if step in {"SCAN r", "SCAN reports", "SCAN d"}]
            assert "FROM decisions" not in question or any("INDEX judged" in s for s in plan)
    sgd, sam = told["studies"]
    assert sgd["states"] == {"completed": 1, "pruned": 1, "error": 1}
    assert sgd["repeats"] == {"completed": 2} and sam["repeats"] == {}
    assert sam["best"] == {"value": 0.9, "trial": 0, "knobs": {"lr": 0.1, "rho": 0.05}}
    assert sgd["used"] == 6 + 2 + 4 + 4 and sam["used"] == 6 + 4
    assert sgd["rungs"] == [4, 1] and sam["rungs"] == [2, 1]
    assert told["errors"] == [{"trial": "sgd:2", "reason": "why not"}]
    assert "trial sgd:2 failed: why not" in status_text(told)
    missed = {**sgd, "best": None, "repeats": {}, "constraints": {"see": 1.0}}
    *lines, last = status_text({**told, "finished": True, "studies": [missed]}).splitlines()
    assert "    no trial that was completed keeps the constraints" in lines
    assert last == "next: samtune trials two"


def test_a_curve_has_a_column_of_its_metric_once(
    two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = said(capsys, two, "show", "two", "sam:0").splitlines()
    (heads,) = [line.split() for line in shown if line.startswith("epoch")]
    assert heads.count("val_acc") == 1 and "train_loss" in heads


def test_a_run_has_a_status_from_its_first_second(runs: Path) -> None:
    study = {"name": "sgd", "variant": "sgd", "base": "sgd", "sha256": "0" * 64}
    study |= {"space": SearchSpace.load("sgd").text, "settings": json.dumps(SETTINGS)}
    with Record.create(runs, "one", [study]) as record, record.lock():
        told = status_of(record)
        text = status_text(told)
    assert told["running"] and not told["finished"] and told["budget_kind"] == "compute"
    assert "one: starting, no trial has begun" in text and "0 see used" in text
    assert "sgd: 0/3 trials" in text and "resume" not in text


def test_300_knobs_take_a_line_of_a_status_and_of_a_list_of_trials(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    names = [f"knob_number_{k}" for k in range(300)]
    study = {"name": "sgd", "variant": "sgd", "base": "sgd", "sha256": "0" * 64}
    settings = {**SETTINGS, "searched": names}
    study |= {"space": SearchSpace.load("sgd").text, "settings": json.dumps(settings)}
    with Record.create(runs, "wide", [study]) as record:
        config = TrialConfig(
            **{"trainable": "sgd", "variant": "sgd", "base": "sgd", "task": {}},
            **{"knobs": {name: k / 7 for k, name in enumerate(names)}},
            **{"budget": Budget("epochs", 3), "seeds": Seeds(1, 1, 1)},
        )
        trial = record.add_trial(0, "search", 0, "sampled", config)
        record.start_attempt(trial)
        record.add_report(trial.trial, 0, message(1, 0.5), "val_acc")
        record.end_trial(trial.trial, "completed")
    for words in (["status", "wide"], ["trials", "wide"], ["leaderboard", "wide"]):
        out = said(capsys, runs, *words)
        assert max(map(len, out.splitlines())) < 300 and "more)" in out, words
    assert "knob_number_299=42.7" in said(capsys, runs, "show", "wide", "0")


def test_a_value_that_json_cannot_hold_is_null(
    runs: Path, two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    study = {"name": "sgd", "variant": "sgd", "base": "sgd", "sha256": "0" * 64}
    study |= {"space": SearchSpace.load("sgd").text, "settings": json.dumps(SETTINGS)}
    with Record.create(runs, "one", [study]) as record:
        for number, value in enumerate([float("inf"), float("-inf"), float("nan")]):
            add(record, 0, number, [0.5, value], "diverged")
    for words in (["trials", "one"], ["show", "one", "0"], ["status", "one"]):
        out = said(capsys, runs, *words, "--json")
        json.loads(out, parse_constant=refuse)


def test_watching_asks_again_only_when_something_was_written(
    runs: Path, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = {"name": "sgd", "variant": "sgd", "base": "sgd", "sha256": "0" * 64}
    study |= {"space": SearchSpace.load("sgd").text, "settings": json.dumps(SETTINGS)}
    record = Record.create(runs, "one", [study])
    whole, writing = [], record.lock()
    writing.__enter__()
    monkeypatch.setattr(looking, "status_of", lambda r: whole.append(r) or status_of(r))

    def meanwhile(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            add(record, 0, 0, [0.5], "completed")
        if len(waits) == 4:
            writing.__exit__(None, None, None)

    waits: list[float] = []
    seen = list(watched(runs, ["one"], 0.5, meanwhile))
    assert waits == [0.5] * 4 and len(seen) == 5
    assert [told["running"] for (told,) in seen] == [True] * 4 + [False]
    assert [told["studies"][0]["states"] for (told,) in seen][1:3] == [{}, {"completed": 1}]
    assert len(whole) == 2
    record.__exit__()


@pytest.mark.parametrize("how", ["Ctrl-C", "the run ends"])
def test_watch_ends_quietly(two: Path, how: str) -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from samtune.cli import main; main()"
    )
    with Record.open(two, "two") as record:
        lock = record.lock()
        lock.__enter__()
        words = ["status", "two", "--watch", "0.1", "--json", "--runs", str(two)]
        watch = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert watch.stdout is not None
            first = json.loads(watch.stdout.readline())
            if how == "Ctrl-C":
                watch.send_signal(signal.SIGINT)
            else:
                lock.__exit__(None, None, None)
            out, err = watch.communicate(timeout=60)
        finally:
            watch.kill()
            lock.__exit__(None, None, None)
    assert watch.returncode == 0 and err == ""
    assert first["schema"] == "status/1" and first["runs"][0]["running"]
    last = [json.loads(line)["runs"][0]["running"] for line in out.splitlines()][-1:]
    assert last == ([] if how == "Ctrl-C" else [False])


def test_watch_takes_seconds_and_not_a_run(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = typed(capsys, "status", "--watch", "two", "--runs", str(two))
    assert code == 2 and "samtune status two --watch" in err
    code, _, err = typed(capsys, "status", "two", "--watch", "0", "--runs", str(two))
    assert code == 2 and "between 0.1 and 3600" in err
    assert "sgd: 3/3 trials" in said(capsys, two, "status", "two", "--watch")


def test_trials_one_line_each(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, two, "trials", "two").splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        *("sgd:0", "sam:0", "sgd:1", "sam:1", "sgd:2", "sgd:r1", "sgd:r2")
    ]
    assert lines[2].split()[1:7] == ["completed", "0.9000", "1", "6", "lr=0.1", "rho=0.05"]
    rows = json.loads(said(capsys, two, "trials", "two", "--json", "--sort", "value"))["trials"]
    values = [row["value"] for row in rows]
    assert values == [0.9, 0.8, pytest.approx(0.8), 0.7, 0.4, None, None]
    assert rows[-1]["state"] in {"diverged", "error"} and rows[0]["knobs"]["lr"] == 0.1
    text = said(capsys, two, "trials", "two", "--space", "sgd", "--format", "csv")
    table = list(csv.DictReader(io.StringIO(text)))
    assert [row["trial"] for row in table] == ["0", "1", "2", "r1", "r2"]
    assert table[0]["knob.lr"] == "0.1" and table[2]["reason"] == "why not"
    text = said(capsys, two, "trials", "two", "--state", "pruned", "--format", "md")
    assert text.splitlines()[2].startswith("| 1 | pruned | 0.4000 | 0 | 2 |")
    assert "no such trial" in said(capsys, two, "trials", "two", "--state", "cancelled")
    code, _, err = typed(capsys, "trials", "two", "--space", "smm", "--runs", str(two))
    assert code == 2 and "no space 'smm'; did you mean 'sam'?" in err
    assert get_args(State) == tuple(_STATES)


def test_tables_fit_a_narrow_terminal(
    two: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for words in (["trials", "two"], ["show", "two", "sam:0"]):
        table = said(capsys, two, *words).splitlines()[-5:]
        assert all(len(line) <= 40 for line in table), table
    assert [len(line.split()) for line in table[-2:]] == [5, 5]


def test_show_tells_all_of_a_trial(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, two, "show", "two", "sam:0")
    assert "two, sam:0: completed" in text and "lr=0.1" in text and "rho=0.05" in text
    assert "val_acc 0.6000 ▁▃█ 0.9000, last 0.9000" in text and "used      6 of 20 see" in text
    assert "attempt 0 0:02 long" in text
    first, last = text.splitlines()[-3].split(), text.splitlines()[-1].split()
    assert first[:6] == ["1", "2", "0.6000", "continue", "0", "0.6000"]
    assert last[:6] == ["3", "6", "0.9000", "continue", "1", "0.9000"]
    text = said(capsys, two, "show", "two", "sgd:2")
    assert "error (why not)" in text and "error: RuntimeError: too steep" in text
    assert "no report yet" in text
    assert "▁x 0.3000" in said(capsys, two, "show", "two", "sam:1")
    told = json.loads(said(capsys, two, "show", "two", "r2", "--json"))
    assert (told["schema"], told["stage"], told["trial"]) == ("trial/1", "confirm", "r2")
    assert [report["value"] for report in told["curve"]] == [0.6, 0.8]
    told = json.loads(said(capsys, two, "show", "two", "2", "--json"))
    assert told["events"][0]["kind"] == "error" and told["attempts"][0]["wall_s"] == 2.5


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("0", "write sgd:0 or sam:0"),
        ("77", "the nearest is sgd:2"),
        ("sam:77", "the nearest is sam:1"),
        ("sam:r1", "it has no repeats yet"),
        ("sgdd:0", "did you mean 'sgd'?"),
        ("best", "names no trial; write its number"),
        ("9" * 30, "names no trial"),
    ],
)
def test_a_trial_that_is_not_there(
    two: Path, capsys: pytest.CaptureFixture[str], reference: str, hint: str
) -> None:
    code, out, err = typed(capsys, "show", "two", reference, "--runs", str(two))
    assert code == 2 and out == "" and hint in err and "Traceback" not in err


def test_a_sparkline_shows_the_ends_and_what_is_not_finite() -> None:
    assert sparkline([0.0, 0.5, None, 1.0], 60, "abc") == "abxc"
    assert sparkline([2.0, 2.0], 60, "abc") == "aa"
    assert sparkline([None], 60) == "x"
    line = sparkline([float(k) for k in range(1000)], 20, "0123456789")
    assert len(line) == 20 and line[0] == "0" and line[-1] == "9"
    assert list(line) == sorted(line)


TABLES = ("trials", "curves", "repeats", "leaderboard")


def test_export_writes_where_it_is_told(
    two: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place, journal = tmp_path / "new" / "tables", tmp_path / "study.journal"
    words = ["--output", str(place), "--optuna", str(journal), "--json"]
    told = json.loads(said(capsys, two, "export", "two", *words))
    written = {str(path) for path in place.iterdir()}
    assert {str(place / f"{table}.parquet") for table in TABLES} <= written
    assert {*told["files"]} == written | {str(journal)}
    assert not list((two / "two").glob("*.parquet"))
    (tmp_path / "file").write_text("")
    code, _, err = typed(
        capsys, "export", "two", "--output", str(tmp_path / "file/x"), "--runs", str(two)
    )
    assert code == 5 and "--output" in err
