"""A run that is fetched from its copy: cut at any write, and synced in order."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import faults
import pytest
import torch
from stored_run import checkpoint, new_run, report, start

from samtune.record.copies import Uploads, copied, fetched
from samtune.record.folder import RunError
from samtune.record.record import Record
from trainables import checkpoint as checkpoints


@pytest.fixture
def record(runs: Path) -> Iterator[Record]:
    with new_run(runs) as record:
        yield record


@pytest.mark.parametrize("kind", ["enospc", "eio", "kill"])
def test_a_fetch_that_is_cut_at_any_write_is_made_good_by_the_next(
    record: Record, runs: Path, memory: Path, kind: str
) -> None:
    folder, url = start(record), str(memory / "there")
    report(record, 1)
    saved = checkpoints.save(folder, 1, {"weights": torch.ones(3)})
    with copied(record, url, new=True):
        pass
    for number in itertools.count(1):
        here = memory / str(number)
        crashed = fetch_cut_at(number, kind, here, url)
        if (here / "run" / "sweep.db").exists():
            with Record.open(here, "run") as found:
                found.verify()
        assert fetch(here, url) is None
        with Record.open(here, "run") as found:
            assert [r.epoch for r in found.reports()] == [1]
            (trial,) = found.trials()
        mine = Path(trial.config.checkpoint_dir or "")
        newest = checkpoints.latest(mine)
        assert newest is not None and checkpoints.verify(newest).sha256 == saved.sha256
        checkpoints.save(mine, 2, {"weights": torch.zeros(3)})
        assert sorted(path.name for path in mine.iterdir()) == ["epoch-00001", "epoch-00002"]
        if not crashed:
            break
    assert number > 12


def test_what_is_fetched_is_synced_before_its_rename_and_after(
    record: Record, tmp_path: Path, synced: list[str]
) -> None:
    folder, url = start(record), str(tmp_path / "there")
    with copied(record, url, new=True):
        checkpoint(folder, 1)
    synced.clear()
    assert fetch(tmp_path / "here", url) is None
    assert synced[:3] == [f".copies.json.{os.getpid()}.tmp", "rename", "run"]
    assert synced[3:8] == ["space.yaml", "sweep.db.unfinished", "rename", "run", "here"]
    assert {*synced[8:10]} == {"state.pt", "SHA256SUMS"}
    assert synced[10:] == [".unfinished-epoch-00001", "rename", "00001"]


def fetch(here: Path, url: str) -> str | None:
    """Fetch all that a resume needs of the run, and return what failed."""
    try:
        if not (here / "run" / "sweep.db").exists():
            fetched(here, "run", url)
    except RunError as error:
        assert error.exit_code == 5
        return str(error)
    return Uploads(url, "run", str(here / "run/checkpoints/00001")).fetch(last_epoch=1)


def fetch_cut_at(number: int, kind: str, here: Path, url: str) -> bool:
    """Fetches in a child whose write `number` fails; whether it came to that."""
    pid = os.fork()
    if not pid:
        code = 9
        try:
            faults.inject(kind, number)
            code = 1 if fetch(here, url) else 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in {0, -signal.SIGKILL if kind == "kill" else 1}
    return code != 0
