"""Copies of a run on other storage: when they are made, and which run folder may make them.

The sweep writes into its run folder, and SQLite there is the truth. Workers copy checkpoints, each
before its report is sent. The driver copies the record, so a copied record knows of every
checkpoint copied before it. An error of the storage is a warning and an event; it ends no sweep.

A copy has one owner: the run folder that wrote it last. A folder that takes it over raises its
generation. A folder that knows only an older generation is stale: it is refused, and leaves its
openings of test on the storage for the next owner's record.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from samtune import durable
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.record.storage import REFUSALS, Storage, plain
from samtune.terminal import say

EVERY_S = 60.0
_OPEN = {"running", "paused", "cancelled"}


class Uploads:
    """Copying of a trial's checkpoints by its worker, at most one per interval."""

    def __init__(self, url: str, run: str, folder: str, every_s: float = EVERY_S) -> None:
        """Prepare the copying of one trial.

        Args:
            url: the storage.
            run: the run's name.
            folder: the trial's folder for checkpoints, on this machine.
            every_s: the least number of seconds between two copies.
        """
        self._url, self._run, self._folder = url, run, Path(folder)
        self._every_s = every_s
        self._last = time.monotonic()

    def fetch(self, last_epoch: int) -> str | None:
        """Fetch the trial's checkpoint if it is newer than here. Return an error text, or None."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            Storage.at(self._url, self._run).fetch_checkpoint(self._folder, last_epoch)
        except (*REFUSALS, RunError) as error:
            return f"no checkpoint could be fetched from the storage: {plain(error)}"
        return None

    def put(self, checkpoint: str | None) -> str | None:
        """Copy a checkpoint if one is due. Return the error text, or None."""
        if checkpoint is None or time.monotonic() - self._last < self._every_s:
            return None
        self._last = time.monotonic()
        try:
            Storage.at(self._url, self._run).put_checkpoint(Path(checkpoint))
        except (*REFUSALS, RunError) as error:
            return f"{Path(checkpoint).name} was not copied to the storage: {plain(error)}"
        return None


@contextmanager
def copied(
    record: Record,
    url: str | None,
    *,
    new: bool = False,
    every_s: float = EVERY_S,
    warn: Callable[[str], None] = say,
) -> Iterator[None]:
    """Copy the run at intervals during the block, and at its end with every checkpoint.

    Args:
        record: the run, locked.
        url: the storage; None copies nothing.
        new: True for a run that was just made: the storage must not have one of its name.
        every_s: seconds between two copies.
        warn: shows a sentence to people.

    Raises:
        RunError: no such URL (exit code 2); the storage has another run of that name, or another
            folder went on from the copy (4); a new run's storage cannot be reached (5).
    """
    if url is None:
        if record.meta("storage"):
            warn(f"this session is not copied to {record.meta('storage')}; --storage copies it")
        yield
        return
    storage, folder = Storage.at(url, record.name), record.folder
    if new:
        _refuse_taken(storage, record.name, url)
    own = _Ownership(record, storage, url)
    try:
        own.claim()
    except REFUSALS as error:
        if new:
            raise RunError(f"{url} cannot be reached: {plain(error)}", exit_code=5) from error
        _note(record, error)
    over = threading.Event()

    def keep_copying() -> None:
        # A SQLite connection belongs to one thread.
        with Record.open(folder.parent, folder.name) as mine:
            while not over.wait(every_s):
                _copy(own, mine, warn)

    thread = threading.Thread(target=keep_copying, name="storage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if any(record.trials()):
            _copy(own, record, warn, last=True)


def copy_last(record: Record, url: str) -> None:
    """Copy a run whose trials have ended, with every checkpoint that a resume needs."""
    _copy(_Ownership(record, Storage.at(url, record.name), url), record, say, last=True)


def fetched(runs: Path, name: str, url: str) -> None:
    """Make the run folder from its copy. Raise RunError (exit code 2 or 5) when that fails."""
    storage, folder = Storage.at(url, name), runs.absolute() / name
    try:
        if not storage.has_run():
            raise RunError(f"--storage {url} has no run {name!r}: no sweep.db there", exit_code=2)
        owner = storage.owner() or {"generation": 0}
        folder.mkdir(parents=True, exist_ok=True)
        # Before the record, so that a folder with a record never seems stale.
        _Known(folder).learn(url, owner["generation"])
        storage.fetch_record(folder)
    except REFUSALS as error:
        raise RunError(
            f"{name!r} could not be fetched from {url}: {plain(error)}", exit_code=5
        ) from error


class _Known:
    """The identity of a run folder, and the generation of each of its copies."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "copies.json"
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            found = {"folder": secrets.token_hex(8), "generations": {}}
        self.folder: str = found["folder"]
        self._generations: dict[str, int] = found["generations"]

    def generation(self, url: str) -> int:
        """Return the generation of the copy at `url` that this folder last had."""
        return self._generations.get(url, 0)

    def learn(self, url: str, generation: int) -> None:
        """Store the generation of the copy at `url`."""
        self._generations[url] = generation
        content = {"folder": self.folder, "generations": self._generations}
        durable.replace(self._path, json.dumps(content).encode())


class _Ownership:
    """The run folder that may write the copy at `url`."""

    def __init__(self, record: Record, storage: Storage, url: str) -> None:
        self.storage = storage
        self._record, self._url = record, url
        self._known = _Known(record.folder)
        self._claimed = False

    def claim(self) -> None:
        """Take the copy over. Raise RunError (exit code 4) when this folder is stale."""
        known, name = self._known, self._record.name
        owner = self.storage.owner()
        there = owner["generation"] if owner else 0
        mine = owner is None or owner["folder"] == known.folder
        if not mine and there > known.generation(self._url):
            self.storage.put_openings(known.folder, self._record.openings_by_key())
            raise RunError(
                f"{self._record.folder} is older than its copy at {self._url}: another folder "
                f"went on from that copy. To go on from it, type `samtune mv {name} {name}-old`, "
                f"then `samtune resume {name} --storage {self._url}`",
                exit_code=4,
            )
        # Before the record is copied, so that a fetched record contains this generation.
        self.storage.put_owner(known.folder, there + 1)
        known.learn(self._url, there + 1)
        self._record.set_meta("storage", self._url)
        for folder, openings in self.storage.openings().items():
            self._record.add_openings(folder, openings)
        self._claimed = True

    def kept(self) -> bool:
        """Return False once another folder has taken the copy over."""
        if not self._claimed:
            # The storage could not be reached when the session began.
            self.claim()
        owner = self.storage.owner()
        return owner is not None and owner["folder"] == self._known.folder


def _refuse_taken(storage: Storage, name: str, url: str) -> None:
    try:
        taken = storage.has_run()
    except REFUSALS as error:
        raise RunError(f"{url} cannot be reached: {plain(error)}", exit_code=5) from error
    if taken:
        raise RunError(
            f"{url} has a run {name!r} already; choose another --name, or go on with that run: "
            f"`samtune resume {name} --storage {url}`",
            exit_code=4,
        )


def _copy(
    own: _Ownership, record: Record, warn: Callable[[str], None], *, last: bool = False
) -> None:
    storage = own.storage
    ended = {
        Path(trial.config.checkpoint_dir or "").name
        for trial in record.trials()
        if trial.state not in _OPEN
    }
    try:
        if not own.kept():
            raise OSError(
                "another run folder has taken the copy over, and this one leaves it alone"
            )
        if last:
            # Nothing trains any more, so each checkpoint here belongs to the record as it is.
            for checkpoint in sorted((record.folder / "checkpoints").glob("*/epoch-*")):
                if checkpoint.parent.name not in ended:
                    storage.put_checkpoint(checkpoint)
        storage.put_record(record.folder)
        storage.forget_checkpoints(ended)
    except (*REFUSALS, RunError, sqlite3.Error) as error:
        _note(record, error)
        if last:
            warn(
                f"the copy of {record.name} on the storage is not up to date: {plain(error)}; "
                f"the run folder is whole: {record.folder}"
            )


def _note(record: Record, error: Exception) -> None:
    record.add_event("storage", plain(error))
