"""The record: what it refuses, what it keeps, and the tables made from it."""

from __future__ import annotations

import datetime
import json
import math
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from samtune.record import folder as run_folder
from samtune.record import record as writing
from samtune.record import tables
from samtune.record.export import export
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.record.rows import Verdict
from samtune.search.rungs import StoppingRungs
from samtune.trial import Budget, Seeds, TrialConfig

STUDY = {
    "name": "sam",
    "variant": "sam",
    "base": "sgd",
    "space": "samtune: 1\n",
    "sha256": "0" * 64,
    "settings": json.dumps(
        {
            "search_alg": "tpe",
            "scheduler": "asha 2 x 3",
            "mode": "max",
            "trials": 3,
            "searched": ["lr"],
        }
    ),
}
CONFIG = TrialConfig(
    trainable="trainables.vision:sam",
    variant="sam",
    base="sgd",
    knobs={"lr": 0.1, "rho": 0.05, "nesterov": False},
    task={"dataset": "digits", "model": "small_cnn", "label_noise": 0.4, "batch_size": 64},
    budget=Budget("compute", 20.0),
    seeds=Seeds(1, 1, 1),
)


def message(epoch: int, value: float, **metrics: float) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "used": 2.0 * epoch,
        "metrics": {"val_acc": value, "see": 2.0 * epoch, "step": 16 * epoch, **metrics},
        "checkpoint": None,
        "checkpoint_sha256": None,
        "facts": {"n_train": 1000, "device": "cpu"},
    }


def fill(record: Record, trials: int = 6, epochs: int = 4) -> None:
    for number in range(trials):
        trial = record.add_trial(0, "search", number, "sampled", CONFIG)
        attempt, _ = record.start_attempt(trial)
        for epoch in range(1, epochs + 1):
            record.add_report(trial.trial, attempt, message(epoch, number / 7 + epoch), "val_acc")
        record.end_trial(trial.trial, "completed", wall_s=1.5)


@pytest.mark.parametrize(
    "name", ["", "..", "../escape", "a/b", "/abs", "A", "a" * 65, "-x", "a\0b", "ü", "a..b"]
)
def test_a_hostile_name_is_refused(runs: Path, name: str) -> None:
    for make in (lambda: Record.create(runs, name, [STUDY]), lambda: Record.open(runs, name)):
        with pytest.raises(RunError, match="no name for a run") as caught:
            make()
        assert caught.value.exit_code == 2
    assert not list(runs.parent.rglob("*.db"))


def test_a_taken_name_is_refused_and_a_free_one_found(runs: Path) -> None:
    with Record.create(runs, "mine", [STUDY]):
        with pytest.raises(RunError, match="'mine' is taken") as caught:
            Record.create(runs, "mine", [STUDY])
        assert caught.value.exit_code == 4
    names = [Record.create(runs, None, [STUDY]).name for _ in range(3)]
    assert names == ["sam", "sam-2", "sam-3"]


def test_a_commit_is_on_the_disk_when_it_is_made(runs: Path) -> None:
    with Record.create(runs, "mine", [STUDY]) as created, Record.open(runs, "mine") as opened:
        for record in (created, opened):
            (full,) = record.query("PRAGMA synchronous").fetchone()
            (journal,) = record.query("PRAGMA journal_mode").fetchone()
            assert (full, journal) == (2, "wal")


def test_an_unwritable_folder_and_a_missing_run_are_told(tmp_path: Path, runs: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RunError, match=r"cannot write .*--runs") as caught:
        Record.create(blocked / "runs", None, [STUDY])
    assert caught.value.exit_code == 5
    Record.create(runs, "mine", [STUDY])
    with pytest.raises(RunError, match=r"no run 'yours'; runs in .*: mine") as caught:
        Record.open(runs, "yours")
    assert caught.value.exit_code == 2


def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> Path:
    """Return a folder of runs that the kernel lists as of that kind of file system."""
    shared = tmp_path / "our disk"
    shared.mkdir(exist_ok=True)
    escaped = str(shared).replace(" ", r"\040")
    (tmp_path / "mounts").write_text(
        "rootfs / nfs rw 0 0\n/dev/sda / ext4 rw 0 0\nproc /proc proc rw 0 0\n"
        f"there:/x {escaped} {kind} rw,vers=4.2 0 0\n"
    )
    monkeypatch.setattr(run_folder, "MOUNTS", tmp_path / "mounts")
    return shared / "runs"


def mode(record: Record) -> str:
    return str(record.query("PRAGMA journal_mode").fetchone()[0])


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "fuse.sshfs"])
def test_on_a_network_file_system_there_is_no_write_ahead_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    runs = mounted(tmp_path, monkeypatch, kind)
    assert run_folder.network_filesystem(runs) == kind
    assert run_folder.network_filesystem(tmp_path) is None
    with Record.create(runs, "mine", [STUDY]) as record:
        trial = record.add_trial(0, "search", 0, "default", CONFIG)
        assert mode(record) == "delete" and not list(runs.glob("mine/sweep.db-*"))
        # Readers and the writer do not lock each other out.
        with Record.open(runs, "mine", read_only=True) as reader:
            assert len(list(reader.trials())) == 1
            record.end_trial(trial.trial, "completed")
    # What was kept elsewhere is brought to the place where it now is.
    mounted(tmp_path, monkeypatch, "ext4")
    with Record.open(runs, "mine") as record:
        assert mode(record) == "wal"
    mounted(tmp_path, monkeypatch, kind)
    with Record.open(runs, "mine") as record:
        record.verify()
        assert mode(record) == "delete" and record.trial(trial.trial).state == "completed"


def test_a_commit_that_a_kill_cut_short_on_a_network_file_system_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = mounted(tmp_path, monkeypatch, "nfs")
    with Record.create(runs, "mine", [STUDY]) as record:
        for k in range(50):
            record.add_event("filler", str(k) * 500)
        # With hardly a cache, pages are written before their commit.
        record.query("PRAGMA cache_size = 1")
        record.query("BEGIN IMMEDIATE")
        record.query("UPDATE events SET detail = 'cut short'")
        shutil.copytree(record.folder, runs / "killed")
        record.query("ROLLBACK")
    assert b"cut short" in (runs / "killed" / "sweep.db").read_bytes()
    with Record.open(runs, "killed", read_only=True) as found:
        found.verify()
        assert len(found.events()) == 50 and "cut short" not in {
            e["detail"] for e in found.events()
        }


@pytest.mark.parametrize(("found", "other"), [(1, "an older"), (99, "a newer")])
@pytest.mark.parametrize("read_only", [True, False])
def test_a_record_of_another_format_is_refused(
    runs: Path, found: int, other: str, read_only: bool
) -> None:
    with Record.create(runs, "mine", [STUDY]) as record:
        record.set_meta("format", found)
    with pytest.raises(RunError, match=f"{other} samtune: it has format {found}"):
        Record.open(runs, "mine", read_only=read_only)


def test_a_user_id_without_a_name_may_open_test(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for word in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(word, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with Record.create(runs, "mine", [STUDY]) as record:
        best = record.add_trial(0, "search", 0, "default", CONFIG)
        repeat = record.add_trial(0, "confirm", 0, "repeat", CONFIG, source=best.trial)
        record.start_attempt(repeat)
        (opening,) = record.openings()
    assert opening["who"] == "12345"


def test_time_between_a_stop_and_its_resume_is_not_worked(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 10.0, 30.0, 1000.0, 1005.0, 2000.0])
    with Record.create(runs, "mine", [STUDY]) as record:
        trial = record.add_trial(0, "search", 0, "default", CONFIG)
        monkeypatch.setattr(writing, "now", lambda: next(clock))
        record.start_attempt(trial)
        record.add_report(trial.trial, 0, message(1, 0.5), "val_acc")
        record.end_trial(trial.trial, "cancelled")
        assert record.seconds_worked() == 30
        record.start_attempt(trial)
        record.add_report(trial.trial, 1, message(2, 0.5), "val_acc")
        # As a killed process leaves it, and as a running one does.
        assert record.seconds_worked() == 35
        assert record.seconds_worked(until=1010.0) == 40
        assert record.seconds_worked(stage="confirm") == 0


def test_one_writer_at_a_time(runs: Path) -> None:
    with Record.create(runs, "mine", [STUDY]) as one, Record.open(runs, "mine") as two:
        assert not two.is_locked()
        with one.lock():
            assert two.is_locked()
            with pytest.raises(RunError, match="another process") as caught, two.lock():
                pass
            assert caught.value.exit_code == 4
        with two.lock():
            pass


def test_a_report_is_on_disk_before_anyone_decides(runs: Path) -> None:
    with Record.create(runs, "mine", [STUDY]) as record:
        trial = record.add_trial(0, "search", 0, "default", CONFIG)
        attempt, permit = record.start_attempt(trial)
        assert permit is None
        seq = record.add_report(trial.trial, attempt, message(1, 0.5), "val_acc")
        elsewhere = sqlite3.connect(record.folder / "sweep.db")
        assert elsewhere.execute("SELECT seq, value FROM reports").fetchall() == [(seq, 0.5)]
        assert elsewhere.execute("SELECT COUNT(*) FROM decisions").fetchone() == (0,)
        record.add_decision(seq, Verdict("stop", 0, 2.0, 0.6))
        (report,) = record.reports()
        assert (report.decision, report.rung, report.cutoff) == ("stop", 0, 0.6)


def test_an_opening_of_test_is_logged_before_the_repeat_runs(runs: Path) -> None:
    with Record.create(runs, "mine", [STUDY]) as record:
        search = record.add_trial(0, "search", 0, "default", CONFIG)
        repeat = record.add_trial(
            0, "confirm", 0, "repeat", CONFIG, source=search.trial, rank=0, bundle=0
        )
        permits = [record.start_attempt(repeat)[1] for _ in range(2)]
        assert [o["permit"] for o in record.openings()] == permits and None not in permits
        assert [o["used_at"] for o in record.openings()] == [None, None]
        record.add_report(repeat.trial, 1, message(1, 0.5, test_acc=0.9), "val_acc")
        assert [o["used_at"] is None for o in record.openings()] == [True, False]


def test_the_rungs_are_rebuilt_from_the_record(runs: Path) -> None:
    live = StoppingRungs(2, 3, 20)
    with Record.create(runs, "mine", [STUDY]) as record:
        for number, value in enumerate([0.5, math.nan, 0.7, 0.6, 0.8]):
            trial = record.add_trial(0, "search", number, "sampled", CONFIG)
            attempt, _ = record.start_attempt(trial)
            for epoch in (1, 2, 3):
                report = message(epoch, value)
                seq = record.add_report(trial.trial, attempt, report, "val_acc")
                verdict = live.judge(trial.trial, report["used"], value)
                record.add_decision(seq, verdict)
                if verdict.decision == "stop":
                    break
    rebuilt = StoppingRungs(2, 3, 20)
    with Record.open(runs, "mine") as record:
        for row in record.reports():
            verdict = rebuilt.judge(row.trial, row.used, row.value)
            assert (verdict.decision, verdict.rung, verdict.cutoff) == (
                row.decision,
                row.rung,
                row.cutoff,
            )
    assert vars(rebuilt) == vars(live)


def test_tables_hold_what_the_record_holds(runs: Path) -> None:
    with Record.create(runs, "mine", [STUDY]) as record:
        trial = record.add_trial(0, "search", 0, "default", CONFIG)
        first, _ = record.start_attempt(trial)
        record.add_report(trial.trial, first, message(1, 0.5), "val_acc")
        record.add_report(trial.trial, first, message(2, 0.6), "val_acc")
        second, _ = record.start_attempt(trial)
        record.add_report(trial.trial, second, message(2, 0.65), "val_acc")
        record.add_report(trial.trial, second, message(3, math.nan), "val_acc")
        record.end_trial(trial.trial, "diverged", "non-finite", 1.5)
        export(record)
        row = tables.read(record.folder / "trials.parquet", "trials").to_pylist()[0]
        curve = tables.read(record.folder / "curves.parquet", "curves").to_pylist()
    assert row["state"] == "diverged" and row["val_acc"] is None and row["best_val_acc"] == 0.65
    assert (row["attempts"], row["epochs_done"], row["epochs_repeated"]) == (2, 3, 1)
    assert (row["knob.lr"], row["knob.rho"], row["knob.nesterov"]) == (0.1, 0.05, "False")
    assert row["horizon_steps"] == 160
    assert [(c["epoch"], c["attempt"], c["superseded"]) for c in curve] == [
        (1, 0, False),
        (2, 0, True),
        (2, 1, False),
        (3, 1, False),
    ]


def test_a_damaged_or_foreign_table_is_told(tmp_path: Path) -> None:
    path = tmp_path / "curves.parquet"
    row = {"run": "x", "trial_key": "k", "stage": "search", "attempt": 0, "epoch": 1}
    now = datetime.datetime.now(datetime.UTC)
    rows = [row | {"used": float(k), "superseded": False, "reported_at": now} for k in range(2000)]
    tables.write(path, tables.schema("curves"), rows)
    written = tables.read(path, "curves").to_pylist()
    assert len(written) == 2000
    with pytest.raises(tables.TableError, match="holds curves/1"):
        tables.read(path, "trials")
    with pytest.raises(tables.TableError, match="no such file"):
        tables.read(tmp_path / "trials.parquet", "trials")
    whole = path.read_bytes()
    for position in range(100, len(whole), len(whole) // 40):
        flipped = bytearray(whole)
        flipped[position] ^= 4
        path.write_bytes(flipped)
        try:
            same = tables.read(path, "curves").to_pylist() == written
        except tables.TableError:
            continue
        assert same, f"a flipped bit at {position} went unnoticed"
    assert not list(tmp_path.glob(".*"))


def test_a_null_where_none_may_be_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="run"):
        tables.write(tmp_path / "curves.parquet", tables.schema("curves"), [{"epoch": 1}])
    assert not list(tmp_path.iterdir())
