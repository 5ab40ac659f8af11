"""A copy of a run on other storage: any URL that pyarrow knows, such as s3://bucket/folder.

The run folder stays where the sweep writes, and SQLite the truth. Workers copy checkpoints, each
before its report is sent; the driver copies the record, so a copied record never tells of less
than was copied before it began. What the storage refuses is told, and never ends a sweep.

    URL/NAME/sweep.db                              the record, whole
    URL/NAME/space.yaml ...                        the other small files of the run folder
    URL/NAME/checkpoints/00003/epoch-00012/...     the newest of trials that have not ended
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pyarrow import ArrowException
from pyarrow.fs import (
    FileInfo,
    FileSelector,
    FileSystem,
    FileType,
    LocalFileSystem,
    SubTreeFileSystem,
)

from samtune import durable
from samtune.record.folder import RunError
from samtune.record.record import Record
from samtune.terminal import say

EVERY_S = 60.0
_EPOCH = re.compile(r"epoch-(\d+)")
# The record may be two intervals older than the newest checkpoint, and one of them is below it.
_KEPT = 4
# pyarrow tells of a refusal in either way.
_REFUSALS = (OSError, ArrowException, ValueError, NotImplementedError)


class Storage:
    """The folder `name` of one run there. A method raises one of pyarrow's errors when refused."""

    def __init__(self, files: FileSystem, name: str) -> None:
        self._files = files
        self._root = name

    @classmethod
    def at(cls, url: str, name: str) -> Storage:
        """Raises RunError (exit code 2) for a URL that cannot be."""
        try:
            if "://" in url:
                files, root = FileSystem.from_uri(url)
            else:
                files, root = LocalFileSystem(), str(Path(url).absolute())
        except _REFUSALS as error:
            raise RunError(
                f"--storage {url!r} is no storage that pyarrow knows ({_plain(error)}); "
                "try a path, file:///path, s3://bucket/folder or gs://bucket/folder",
                exit_code=2,
            ) from error
        return cls(SubTreeFileSystem(root, files), name)

    def has_run(self) -> bool:
        return self._exists(f"{self._root}/sweep.db")

    def put_record(self, folder: Path) -> None:
        """Copies the record as it stands, and the small files beside it."""
        with tempfile.TemporaryDirectory(dir=folder, prefix=".copy-") as scratch:
            whole = Path(scratch, "sweep.db")
            with (
                closing(sqlite3.connect(folder / "sweep.db", timeout=30)) as live,
                closing(sqlite3.connect(whole)) as copy,
            ):
                live.backup(copy)
            self._files.create_dir(self._root)
            self._put(whole, f"{self._root}/sweep.db")
        for path in folder.iterdir():
            if path.suffix in {".yaml", ".parquet", ".html"}:
                self._put(path, f"{self._root}/{path.name}")

    def put_checkpoint(self, checkpoint: Path) -> None:
        """Copies `.../<trial>/epoch-<n>` and drops the trial's oldest ones."""
        trial = f"{self._root}/checkpoints/{checkpoint.parent.name}"
        target, unfinished = f"{trial}/{checkpoint.name}", f"{trial}/.unfinished"
        if self._exists(target):
            return
        if self._exists(unfinished):
            self._files.delete_dir(unfinished)
        self._files.create_dir(unfinished)
        for path in sorted(checkpoint.iterdir()):
            self._put(path, f"{unfinished}/{path.name}")
        self._files.move(unfinished, target)
        for old in self._epochs(trial)[:-_KEPT]:
            self._files.delete_dir(f"{trial}/epoch-{old:05d}")

    def fetch_checkpoint(self, folder: Path, last_epoch: int) -> int | None:
        """Brings the newest checkpoint of a trial up to `last_epoch`, if it is newer than ours.

        `folder` is the trial's own, on this machine. Returns the epoch that was brought.
        """
        trial = f"{self._root}/checkpoints/{folder.name}"
        ours = [int(found[1]) for p in _entries(folder) if (found := _EPOCH.fullmatch(p.name))]
        theirs = [epoch for epoch in self._epochs(trial) if epoch <= last_epoch]
        if not theirs or max(theirs) <= max(ours, default=-1):
            return None
        name = f"epoch-{max(theirs):05d}"
        # Under the name that a checkpoint has while it is written: what a killed process leaves
        # here is swept up with what one leaves there.
        unfinished = folder / f".unfinished-{name}"
        if unfinished.exists():
            durable.remove(unfinished)
        unfinished.mkdir()
        for entry in self._listed(f"{trial}/{name}"):
            self._copy(entry.path, unfinished / entry.base_name)
        durable.rename(unfinished, folder / name)
        return max(theirs)

    def fetch_record(self, folder: Path) -> None:
        """Makes a run folder from the copy; its checkpoints come when their trials do.

        Raises FileNotFoundError when the storage has no such run.
        """
        if not self.has_run():
            raise FileNotFoundError("it has no sweep.db")
        folder.mkdir(parents=True, exist_ok=True)
        for entry in self._listed(self._root):
            if entry.type == FileType.File and entry.base_name != "sweep.db":
                self._copy(entry.path, folder / entry.base_name)
        (folder / "checkpoints").mkdir(exist_ok=True)
        # Last: a folder that has a sweep.db has a whole one.
        self._copy(f"{self._root}/sweep.db", folder / "sweep.db.unfinished")
        durable.rename(folder / "sweep.db.unfinished", folder / "sweep.db")
        durable.sync_folder(folder.parent)

    def forget_checkpoints(self, ended: set[str]) -> None:
        """Drops the checkpoints of trials that have ended; `ended` are names of folders."""
        for entry in self._listed(f"{self._root}/checkpoints"):
            if entry.base_name in ended:
                self._files.delete_dir(entry.path)

    def _epochs(self, trial: str) -> list[int]:
        found = (_EPOCH.fullmatch(entry.base_name) for entry in self._listed(trial))
        return sorted(int(match[1]) for match in found if match)

    def _listed(self, folder: str) -> list[FileInfo]:
        selector = FileSelector(folder, allow_not_found=True)
        return list(self._files.get_file_info(selector))

    def _exists(self, path: str) -> bool:
        return bool(self._files.get_file_info(path).type != FileType.NotFound)

    def _put(self, path: Path, name: str) -> None:
        # Under another name first: on a file system a half-written file would pass for whole.
        with path.open("rb") as source, self._files.open_output_stream(f"{name}.part") as sink:
            while block := source.read(2**20):
                sink.write(block)
        self._files.move(f"{name}.part", name)

    def _copy(self, name: str, path: Path) -> None:
        with self._files.open_input_stream(name) as source:
            durable.copy(source.read, path)


class Uploads:
    """Copies a trial's checkpoints from its worker, at most one an interval."""

    def __init__(self, url: str, run: str, folder: str, every_s: float = EVERY_S) -> None:
        self._url, self._run, self._folder = url, run, Path(folder)
        self._every_s = every_s
        self._last = time.monotonic()

    def fetch(self, last_epoch: int) -> str | None:
        """Brings the trial's checkpoint here, where there is none as new; returns what failed."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            Storage.at(self._url, self._run).fetch_checkpoint(self._folder, last_epoch)
        except (*_REFUSALS, RunError) as error:
            return f"no checkpoint could be fetched from the storage: {_plain(error)}"
        return None

    def put(self, checkpoint: str | None) -> str | None:
        """Copies a checkpoint if one is due; returns what failed."""
        if checkpoint is None or time.monotonic() - self._last < self._every_s:
            return None
        self._last = time.monotonic()
        try:
            Storage.at(self._url, self._run).put_checkpoint(Path(checkpoint))
        except (*_REFUSALS, RunError) as error:
            return f"{Path(checkpoint).name} was not copied to the storage: {_plain(error)}"
        return None


@contextmanager
def copied(
    record: Record, url: str | None, *, new: bool = False, every_s: float = EVERY_S
) -> Iterator[None]:
    """Copies the run at intervals while the block runs, and at its end with every checkpoint.

    Raises RunError for a URL that cannot be, and for a `new` run whose storage cannot be reached
    or has a run of that name; what fails later is an event and a warning.
    """
    if url is None:
        yield
        return
    storage, folder = Storage.at(url, record.name), record.folder
    if new:
        _refuse_taken(storage, record.name, url)
    over = threading.Event()

    def keep_copying() -> None:
        # SQLite gives each thread a connection of its own.
        with Record.open(folder.parent, folder.name) as mine:
            while not over.wait(every_s):
                _copy(storage, mine)

    thread = threading.Thread(target=keep_copying, name="storage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if any(record.trials()):
            _copy(storage, record, last=True)


def copy_last(record: Record, url: str) -> None:
    """Copy a run whose trials have ended, with every checkpoint that a resume needs."""
    _copy(Storage.at(url, record.name), record, last=True)


def fetched(runs: Path, name: str, url: str) -> None:
    """Makes the run folder from its copy. Raises RunError (exit code 2 or 5) when it cannot."""
    storage = Storage.at(url, name)
    try:
        storage.fetch_record(runs.absolute() / name)
    except FileNotFoundError as error:
        raise RunError(f"--storage {url} has no run {name!r}: {error}", exit_code=2) from error
    except _REFUSALS as error:
        raise RunError(
            f"{name!r} could not be fetched from {url}: {_plain(error)}", exit_code=5
        ) from error


def _refuse_taken(storage: Storage, name: str, url: str) -> None:
    try:
        taken = storage.has_run()
    except _REFUSALS as error:
        raise RunError(f"{url} cannot be reached: {_plain(error)}", exit_code=5) from error
    if taken:
        raise RunError(
            f"{url} has a run {name!r} already; choose another --name, or go on with that one: "
            f"`samtune resume {name} --storage {url}`",
            exit_code=4,
        )


def _copy(storage: Storage, record: Record, *, last: bool = False) -> None:
    ended = {
        Path(trial.config.checkpoint_dir or "").name
        for trial in record.trials()
        if trial.state not in {"running", "paused", "cancelled"}
    }
    try:
        if last:
            # Nothing trains any more: what is on this machine belongs to the record as it is.
            for checkpoint in sorted((record.folder / "checkpoints").glob("*/epoch-*")):
                if checkpoint.parent.name not in ended:
                    storage.put_checkpoint(checkpoint)
        storage.put_record(record.folder)
        storage.forget_checkpoints(ended)
    except (*_REFUSALS, sqlite3.Error) as error:
        record.add_event("storage", _plain(error))
        if last:
            say(
                f"the copy of {record.name} on the storage is not up to date: {_plain(error)}; "
                f"the run folder is whole: {record.folder}"
            )


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
