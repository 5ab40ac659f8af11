"""A run copied to other storage, and gone on with where nothing of it is left."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem, SubTreeFileSystem
from stored_run import checkpoint, new_run, report, start

from samtune.cli import main
from samtune.record.copies import Uploads, copied, fetched
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.record.rows import TrialRow
from samtune.record.runs import rename
from samtune.record.storage import Storage


@pytest.fixture
def record(runs: Path) -> Iterator[Record]:
    with new_run(runs) as record:
        yield record


def test_what_is_copied_is_whole_and_comes_back(
    record: Record, runs: Path, tmp_path: Path
) -> None:
    folder, url = start(record), (tmp_path / "there").as_uri()
    report(record, 1)
    # What is only in the journal is copied as well.
    assert (record.folder / "sweep.db-wal").stat().st_size > 0
    with copied(record, url, new=True):
        checkpoint(folder, 1)
    shutil.rmtree(runs)
    fetched(runs, "run", url)
    assert not folder.exists(), "checkpoints come when their trials do"
    with Record.open(runs, "run") as found:
        assert [r.epoch for r in found.reports()] == [1]
    assert Uploads(url, "run", str(folder)).fetch(last_epoch=1) is None
    assert (folder / "epoch-00001" / "state.pt").read_bytes() == b"state 1"
    assert not list(tmp_path.glob("there/**/*.part"))


def test_a_run_is_copied_while_it_runs(record: Record, tmp_path: Path) -> None:
    start(record)
    with copied(record, str(tmp_path / "there"), every_s=0.01):
        for epoch in (1, 2):
            report(record, epoch)
            wait_for(lambda last=epoch: epochs_in(tmp_path / "there/run/sweep.db")[-1:] == [last])


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def epochs_in(copy: Path) -> list[int]:
    if not copy.exists():
        return []
    with closing(sqlite3.connect(f"{copy.as_uri()}?immutable=1", uri=True)) as db:
        return [epoch for (epoch,) in db.execute("SELECT epoch FROM reports ORDER BY seq")]


def test_a_checkpoint_is_never_ahead_of_the_record(tmp_path: Path) -> None:
    url, folder = str(tmp_path / "there"), tmp_path / "here" / "00001"
    uploads = Uploads(url, "run", str(folder), every_s=0)
    for epoch in range(1, 7):
        assert uploads.put(str(checkpoint(folder, epoch))) is None
    kept = sorted(path.name for path in Path(url, "run/checkpoints/00001").iterdir())
    assert kept == [f"epoch-{epoch:05d}" for epoch in (3, 4, 5, 6)]
    shutil.rmtree(folder)
    assert uploads.fetch(last_epoch=5) is None
    assert [path.name for path in folder.iterdir()] == ["epoch-00005"]
    checkpoint(folder, 7)
    assert uploads.fetch(last_epoch=6) is None
    assert not (folder / "epoch-00006").exists(), "what is here and newer stays"


def test_uploads_keep_an_interval(tmp_path: Path) -> None:
    uploads = Uploads(str(tmp_path / "there"), "run", str(tmp_path / "00001"), every_s=3600)
    assert uploads.put(str(checkpoint(tmp_path / "00001", 1))) is None
    assert not (tmp_path / "there").exists()


def test_any_file_system_of_pyarrow_will_do(record: Record, tmp_path: Path) -> None:
    memory = MemoryFileSystem(skip_instance_cache=True)
    memory.store, memory.pseudo_dirs = {}, [""]
    folder = start(record)
    for files in (
        PyFileSystem(FSSpecHandler(memory)),
        SubTreeFileSystem(str(tmp_path), LocalFileSystem()),
    ):
        storage = Storage(files, "run")
        assert not storage.has_run()
        storage.put_record(record.folder)
        storage.put_checkpoint(checkpoint(folder, 1))
        shutil.rmtree(folder)
        folder.mkdir()
        assert storage.fetch_checkpoint(folder, 1) == 1
        storage.fetch_record(tmp_path / "other" / "run")
        with sqlite3.connect(tmp_path / "other" / "run" / "sweep.db") as found:
            assert found.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert found.execute("SELECT COUNT(*) FROM trials").fetchone() == (1,)
        storage.forget_checkpoints({folder.name})
        assert storage.fetch_checkpoint(folder, 9) is None
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "other")


def test_a_storage_that_refuses_ends_nothing(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, there = start(record), tmp_path / "there"
    with copied(record, str(there)):
        shutil.rmtree(there)
        there.write_text("a file where a folder should be")
        uploads = Uploads(str(there), "run", str(folder), every_s=0)
        told = uploads.put(str(checkpoint(folder, 1)))
        assert told is not None and told.startswith("epoch-00001 was not copied to the storage: ")
    assert "not up to date" in capsys.readouterr().err
    assert [event["kind"] for event in record.events()] == ["storage"]
    assert record.trial(1).state == "running"


def test_ended_trials_have_no_checkpoint_there(record: Record, tmp_path: Path) -> None:
    url = str(tmp_path / "there")
    first, second = start(record, 1), start(record, 2)
    with copied(record, url):
        checkpoint(first, 1), checkpoint(second, 1)
    record.end_trial(1, "completed")
    with copied(record, url):
        pass
    assert [path.name for path in Path(url, "run", "checkpoints").iterdir()] == [second.name]


@pytest.mark.parametrize(
    ("url", "code", "told"),
    [("s4://bucket", 2, "no storage that pyarrow knows"), ("there", 4, "has a run 'run' already")],
)
def test_a_new_run_is_told_at_once(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, code: int, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    start(record)
    with copied(record, "there"):
        pass
    with pytest.raises(RunError, match=told) as caught, copied(record, url, new=True):
        pass
    assert caught.value.exit_code == code


def test_a_run_that_is_nowhere_is_said_to_be(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["resume", "gone", "--storage", str(tmp_path), "--runs", str(runs)])
    assert caught.value.code == 2
    assert "has no run 'gone'" in capsys.readouterr().err


def test_a_stale_folder_is_refused_and_its_openings_are_kept(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped in A, gone on with in B, and resumed in A once more."""
    url = (tmp_path / "there").as_uri()
    start(record)
    repeat = repeated(record)
    with copied(record, url, new=True):
        record.start_attempt(repeat)
    fetched(tmp_path / "b", "run", url)
    with Record.open(tmp_path / "b", "run") as other, copied(other, url):
        other.start_attempt(other.trial(repeat.trial))
        report_test(other, repeat.trial, attempt=1)
    # One that the copy does not know, as a kill before the next copy leaves it.
    record.start_attempt(repeat)
    there = Path(tmp_path, "there/run/sweep.db").read_bytes()
    with pytest.raises(RunError, match="older than its copy") as caught, copied(record, url):
        pass
    assert caught.value.exit_code == 4
    assert "`samtune mv run run-old`" in str(caught.value)
    assert f"`samtune resume run --storage {url}`" in str(caught.value)
    assert Path(tmp_path, "there/run/sweep.db").read_bytes() == there
    with Record.open(tmp_path / "b", "run") as other:
        for _ in range(2):
            with copied(other, url):
                pass
        openings = other.openings()
        assert len(openings) == 3 and sum(o["used_at"] is not None for o in openings) == 1
        assert not [e for e in other.events() if e["kind"] == "storage"]
    # What was typed: the stale folder stays beside the fetched one.
    rename(record.folder.parent, "run", "run-old")
    fetched(record.folder.parent, "run", url)
    with Record.open(record.folder.parent, "run") as again, copied(again, url):
        assert len(again.openings()) == 3
    assert capsys.readouterr().err == ""


def test_a_copy_that_another_folder_takes_over_is_left_alone(
    record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(tmp_path / "there")
    start(record)
    with copied(record, url, new=True):
        pass
    with copied(record, url):
        fetched(tmp_path / "b", "run", url)
        with Record.open(tmp_path / "b", "run") as other, copied(other, url):
            other.add_event("mine")
    with sqlite3.connect(tmp_path / "there/run/sweep.db") as copy:
        assert ("mine",) in copy.execute("SELECT kind FROM events").fetchall()
    assert "another run folder has taken the copy over" in capsys.readouterr().err


def test_a_folder_goes_on_with_its_own_copy_wherever_it_is_moved(
    record: Record, runs: Path, tmp_path: Path
) -> None:
    url = str(tmp_path / "there")
    start(record)
    with copied(record, url, new=True):
        pass
    record.__exit__()
    runs.rename(tmp_path / "moved")
    for _ in range(2):
        with Record.open(tmp_path / "moved", "run") as moved, copied(moved, url):
            pass
    with Record.open(tmp_path / "moved", "run") as moved:
        assert not moved.events()


def test_a_copied_run_that_goes_on_without_its_storage_says_so(
    record: Record, tmp_path: Path
) -> None:
    start(record)
    said: list[str] = []
    with copied(record, str(tmp_path / "there"), new=True, warn=said.append):
        pass
    with copied(record, None, warn=said.append):
        pass
    (warning,) = said
    assert "not copied" in warning and str(tmp_path / "there") in warning


def repeated(record: Record) -> TrialRow:
    """Add a repeat of the first trial."""
    first = record.trial(1)
    return record.add_trial(0, "confirm", 1, "repeat", first.config, source=1, rank=0, bundle=0)


def report_test(record: Record, trial: int, attempt: int) -> None:
    metrics = {"epoch": 1, "used": 1, "metrics": {"val_acc": 0.5, "test_f1": 0.5}, "facts": {}}
    sent = {**metrics, "checkpoint": None, "checkpoint_sha256": None}
    record.add_report(trial, attempt, sent, "val_acc")


@pytest.mark.slow
def test_a_run_goes_on_where_only_its_copy_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in a trial's third epoch, its folder lost, and resumed from the storage."""
    monkeypatch.chdir(tmp_path)
    lab = f"import os, pathlib, time, samtune\n{_LAB}"
    Path("copy_lab.py").write_text(lab)
    space = "samtune: 1\ntrainable: copy_lab:slow\nknobs: {lr: {grid: [0.5, 0.4]}}\n"
    words = "budget: {kind: epochs, per_trial: 5}\nsearch: {method: grid}\nasha: {grace: 5}\n"
    Path("copy.yaml").write_text(space + words + "resources: {parallel: 1}\n")

    def samtune(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-c", "from samtune.cli import main; main()", *words]
        done = subprocess.run(
            [*command, "--storage", "there", "--runs", "here", "--quiet"],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=200,
        )
        return done.returncode, done.stderr

    code, told = samtune("run", "copy.yaml", "--name", "run", "--no-confirm")
    assert code == 75, told
    assert Path("there/run/checkpoints/00001/epoch-00002/state.pt").is_file()
    shutil.rmtree("here")
    code, told = samtune("resume", "run")
    assert code == 0, told
    with Record.open(Path("here"), "run") as record:
        assert [trial.state for trial in record.trials()] == ["completed"] * 2
        begun = [json.loads(r) for r in Path("begun.jsonl").read_text().splitlines()]
        assert begun == [["00001", 1], ["00001", 3], ["00002", 1]], "it went on at its checkpoint"


_LAB = '''
def slow(config):
    """Writes its epochs as checkpoints, and asks its first attempt's sweep to stop after two."""
    folder = pathlib.Path(config.checkpoint_dir)
    epochs = sorted(int(path.name[6:]) for path in folder.glob("epoch-*"))
    first = epochs[-1] + 1 if epochs else 1
    with open(folder.parents[3] / "begun.jsonl", "a") as begun:
        begun.write(f'["{folder.name}", {first}]\\n')
    for epoch in range(first, 6):
        place = folder / f"epoch-{epoch:05d}"
        place.mkdir()
        (place / "state.pt").write_text("state")
        stops = epoch == 2 and first == 1 and folder.name == "00001"
        samtune.report(epoch=epoch, val_acc=0.5, checkpoint=str(place))
        if stops:
            (folder.parents[1] / "stop").touch()
            # The sweep looks for requests once a second.
            time.sleep(3)
'''
