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
from typing import Any, get_args

import pytest
import yaml
from problems import PAIRS
from typed import typed

from benchmarks.scale_tables import make_run
from samtune.commands.trials import _STATES
from samtune.optimizers import VARIANTS, base_of
from samtune.record import curves as exporting
from samtune.record import tables
from samtune.record.export import export
from samtune.record.record import Record
from samtune.record.rows import Stage, State, TrialRow
from samtune.search.rungs import StoppingRungs
from samtune.space.search_space import SearchSpace, resolve
from samtune.trial import Budget, Seeds, TrialConfig, running
from samtune.views import status as looking
from samtune.views.best import Winner, python, winner_of
from samtune.views.status import status_of, status_text, watched
from samtune.views.trials import sparkline, trials_of

SETTINGS = {
    **{"search_alg": "tpe", "scheduler": "asha 2 x 3", "mode": "max", "trials": 3},
    "searched": ["lr", "rho"],
}
KNOBS = {"momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}


def message(epoch: int, value: float, **metrics: float) -> dict[str, Any]:
    more = {"see": 2.0 * epoch, "step": 16 * epoch, "train_loss": 1 / epoch, **metrics}
    return {
        **{"epoch": epoch, "used": 2.0 * epoch, "metrics": {"val_acc": value, **more}},
        **{"checkpoint": None, "checkpoint_sha256": None, "facts": {"device": "cpu"}},
    }


def add(
    record: Record, study: int, number: int, values: list[float], state: State, **more: Any
) -> TrialRow:
    """A trial with a report a value, judged by one set of rungs a study."""
    space = SearchSpace.from_text(record.studies()[study].space, "x", "x")
    knobs = {"lr": round(0.1 * (number + 1), 1), **KNOBS}
    if space.variant == "sam":
        knobs["rho"] = 0.05
    config = TrialConfig(
        **{"trainable": space.trainable, "variant": space.variant, "base": space.base},
        **{"knobs": knobs, "task": space.task, "budget": space.trial_budget},
        seeds=Seeds(1, 1, 1),
    )
    stage: Stage = "confirm" if "source" in more else "search"
    trial = record.add_trial(study, stage, number, "sampled", config, **more)
    attempt, _ = record.start_attempt(trial)
    rungs = RUNGS.setdefault((record.folder, study), StoppingRungs(2, 3, 20))
    for epoch, value in enumerate(values, 1):
        seq = record.add_report(trial.trial, attempt, message(epoch, value), "val_acc")
        record.add_decision(seq, rungs.judge(trial.trial, 2.0 * epoch, value))
    if state != "running":
        record.end_trial(trial.trial, state, "why not" if state == "error" else None, 2.5)
    return trial


RUNGS: dict[Any, StoppingRungs] = {}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `two`: sgd and sam searched, sgd's winner repeated twice."""
    runs = tmp_path_factory.mktemp("look") / "runs"
    spaces = [SearchSpace.load(name) for name in ("sgd", "sam")]
    studies = [
        {
            **{"name": s.name, "variant": s.variant, "base": s.base, "space": s.text},
            **{"sha256": s.sha256, "settings": json.dumps(SETTINGS)},
        }
        for s in spaces
    ]
    with Record.create(runs, "two", studies) as record:
        best = add(record, 0, 0, [0.5, 0.7, 0.8], "completed")
        add(record, 1, 0, [0.6, 0.7, 0.9], "completed")
        add(record, 0, 1, [0.4], "pruned")
        add(record, 1, 1, [0.3, float("nan")], "diverged")
        failed = add(record, 0, 2, [], "error")
        record.add_event("error", "Traceback ...\nRuntimeError: too steep", failed.trial)
        for bundle in (0, 1):
            values = [0.6, (7 + bundle) / 10]
            more = {"source": best.trial, "rank": 0, "bundle": bundle}
            add(record, 0, bundle + 1, values, "completed", **more)
    return runs


def said(capsys: pytest.CaptureFixture[str], two: Path, *words: str) -> str:
    code, out, err = typed(capsys, *words, "--runs", str(two))
    assert code == 0 and err == "", err
    return out


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


def test_best_is_a_space_file_that_runs(
    two: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("best.yaml").write_text(said(capsys, two, "best", "two"))
    code, out, err = typed(capsys, "run", "best.yaml", "--dry-run", "--json")
    assert code == 0, err
    (plan,) = json.loads(out)["spaces"]
    assert plan["variant"] == "sam" and plan["trials"] == 1
    (first,) = plan["first_configurations"]
    assert first["knobs"].items() >= {"lr": 0.1, "rho": 0.05, "momentum": 0.9}.items()
    assert not Path("runs").exists()
    told = json.loads(said(capsys, two, "best", "two", "--space", "sgd", "--json"))
    assert told["value"] == 0.8 and told["repeats"] == 2
    assert told["confirmed"] == pytest.approx(0.75)
    assert "0.7500 over 2 repeats" in told["space_file"]
    assert yaml.safe_load(told["space_file"])["knobs"]["lr"] == 0.1


def test_the_best_space_is_chosen_on_repeats_once_all_have_them(runs: Path, two: Path) -> None:
    folder = runs / "two"
    folder.mkdir(parents=True)
    folder.joinpath("sweep.db").write_bytes((two / "two" / "sweep.db").read_bytes())
    with Record.open(runs, "two") as record:
        assert winner_of(record).study.name == "sam"
        source = next(record.trials(study=1))
        add(record, 1, 3, [0.6, 0.65], "completed", source=source.trial, rank=0, bundle=0)
        assert winner_of(record).study.name == "sgd"


SMALL = {"dataset": "digits", "model": "small_cnn", "train_size": 130, "batch_size": 64}


@pytest.mark.parametrize(("name", "base"), PAIRS)
def test_the_script_of_a_winner_gives_what_its_trial_gave(
    two: Path, name: str, base: str | None, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    variant = VARIANTS[name]
    knobs = {k: knob.default for k, knob in variant.knobs().items()}
    if base:
        knobs |= {k: knob.default for k, knob in base_of(variant, base).knobs.items()}
    task = {**SMALL, "augment": "standard", "mixup": 0.2, "warmup": 0.5, "schedule": "cosine"}
    trained = TrialConfig(
        **{"trainable": f"trainables.vision:{name}", "variant": name, "base": base or "none"},
        **{"knobs": knobs, "task": task, "budget": Budget("compute", 4.0)},
        seeds=Seeds(init=1, order=2, split=3),
    )
    reports: list[dict[str, Any]] = []
    with running(trained, reports.append):
        resolve(name)(trained)
    last = reports[-1]["metrics"]
    with Record.open(two, "two", read_only=True) as record:
        study, (trial, *_) = record.studies()[0], list(record.trials())
    row = TrialRow(**{**vars(trial), "config": trained, "facts": {"threads": 1}})
    code = python(Winner("two", study, row, last["val_acc"], len(reports)))
    capsys.readouterr()
    names: dict[str, Any] = {}
    exec(compile(code, "best.py", "exec"), names)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(reports) and type(names["optimizer"]) is variant
    assert shown[-1] == (
        f"epoch {len(reports)}: val_acc {last['val_acc']:.4f}, val_loss {last['val_loss']:.4f}"
    )
    assert f"the trial took {len(reports)} epochs" in code and "set_num_threads(1)" in code


def test_the_script_of_a_stranger_calls_its_trainable(
    runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "lab.py").write_text(
        "import samtune\n"
        "def quick(config):\n"
        "    for epoch in (1, 2):\n"
        "        samtune.report(epoch=epoch, val_acc=config.knobs['lr'] * epoch)\n"
    )
    text = "samtune: 1\ntrainable: lab:quick\nknobs:\n  lr: 0.1\nbudget: {kind: epochs}\n"
    text = SearchSpace.from_text(text, "lab", "lab").text
    study = {"name": "lab", "variant": "quick", "base": "none", "sha256": "0" * 64}
    with Record.create(
        runs, "one", [{**study, "space": text, "settings": json.dumps(SETTINGS)}]
    ) as record:
        code, _, err = typed(capsys, "best", "one", "--runs", str(runs))
        assert code == 1 and "samtune status one" in err
        add(record, 0, 0, [0.5], "completed")
    (tmp_path / "best.py").write_text(said(capsys, runs, "best", "one", "--python"))
    assert "best one --python" in said(capsys, runs, "best", "one")
    done = subprocess.run(
        [sys.executable, "best.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "'epoch': 2" in done.stdout and "'val_acc': 0.2" in done.stdout


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
