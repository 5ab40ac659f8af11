"""The copy of one run on other storage: any URL that pyarrow knows, such as s3://bucket/folder.

    URL/NAME/sweep.db                              the record, whole
    URL/NAME/owner.json                            the run folder that this is a copy of
    URL/NAME/openings-<folder>.json                openings of test that only another folder knows
    URL/NAME/space.yaml ...                        the other small files of the run folder
    URL/NAME/checkpoints/00003/epoch-00012/...     the newest of trials that have not ended

`samtune.record.copies` decides when what is copied.
"""

from __future__ import annotations

import json
import re
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

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

_OPENINGS = re.compile(r"openings-([0-9a-f]+)\.json")
_EPOCH = re.compile(r"epoch-(\d+)")
# The record may be two intervals older than the newest checkpoint, and needs one below it.
_KEPT = 4
_SMALL = {".yaml", ".parquet", ".html", ".txt"}
REFUSALS = (OSError, ArrowException, ValueError, NotImplementedError)
"""The errors that pyarrow raises when a storage refuses."""


class Storage:
    """The folder of one run on a storage. Methods raise one of `REFUSALS` when it refuses."""

    def __init__(self, files: FileSystem, name: str) -> None:
        """Take a file system, and the name of the run's folder in it."""
        self._files = files
        self._root = name

    @classmethod
    def at(cls, url: str, name: str) -> Storage:
        """Return the copy of the run `name` at a URL. Raise RunError (exit code 2) for no URL."""
        try:
            if "://" in url:
                files, root = FileSystem.from_uri(url)
            else:
                files, root = LocalFileSystem(), str(Path(url).absolute())
        except REFUSALS as error:
            raise RunError(
                f"--storage {url!r} is no storage that pyarrow knows ({plain(error)}); "
                "try a path, file:///path, s3://bucket/folder or gs://bucket/folder",
                exit_code=2,
            ) from error
        return cls(SubTreeFileSystem(root, files), name)

    def has_run(self) -> bool:
        """Return True if the storage has a whole record."""
        return self._exists(f"{self._root}/sweep.db")

    def put_record(self, folder: Path) -> None:
        """Copy the record as it stands, and the small files beside it."""
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
            if path.suffix in _SMALL:
                self._put(path, f"{self._root}/{path.name}")

    def put_checkpoint(self, checkpoint: Path) -> None:
        """Copy `.../<trial>/epoch-<n>` and drop the trial's oldest ones."""
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
        """Fetch a trial's newest checkpoint if it is newer than those on this machine.

        Args:
            folder: the trial's folder on this machine.
            last_epoch: the last epoch that the record knows; later checkpoints are left.

        Returns:
            The epoch of the fetched checkpoint, or None.
        """
        trial = f"{self._root}/checkpoints/{folder.name}"
        ours = [int(found[1]) for p in _entries(folder) if (found := _EPOCH.fullmatch(p.name))]
        theirs = [epoch for epoch in self._epochs(trial) if epoch <= last_epoch]
        if not theirs or max(theirs) <= max(ours, default=-1):
            return None
        name = f"epoch-{max(theirs):05d}"
        # A checkpoint has such a name while it is written, so the next one that is written here
        # removes what a killed process leaves.
        unfinished = folder / f".unfinished-{name}"
        if unfinished.exists():
            durable.remove(unfinished)
        unfinished.mkdir()
        for entry in self._listed(f"{trial}/{name}"):
            self._copy(entry.path, unfinished / entry.base_name)
        durable.rename(unfinished, folder / name)
        return max(theirs)

    def fetch_record(self, folder: Path) -> None:
        """Make a run folder from the copy, without its checkpoints.

        Raises:
            FileNotFoundError: the storage has no such run.
        """
        if not self.has_run():
            raise FileNotFoundError("it has no sweep.db")
        folder.mkdir(parents=True, exist_ok=True)
        for entry in self._listed(self._root):
            if entry.type == FileType.File and Path(entry.base_name).suffix in _SMALL:
                self._copy(entry.path, folder / entry.base_name)
        (folder / "checkpoints").mkdir(exist_ok=True)
        # Last: a folder that has a sweep.db has a whole one.
        self._copy(f"{self._root}/sweep.db", folder / "sweep.db.unfinished")
        durable.rename(folder / "sweep.db.unfinished", folder / "sweep.db")
        durable.sync_folder(folder.parent)

    def forget_checkpoints(self, ended: set[str]) -> None:
        """Drop the checkpoints of trials that have ended; `ended` are names of folders."""
        for entry in self._listed(f"{self._root}/checkpoints"):
            if entry.base_name in ended:
                self._files.delete_dir(entry.path)

    def owner(self) -> dict[str, Any] | None:
        """Return the `folder` that this is a copy of and its `generation`, or None."""
        path = f"{self._root}/owner.json"
        return self._json(path) if self._exists(path) else None

    def put_owner(self, folder: str, generation: int) -> None:
        """Write down which run folder this is a copy of from now on."""
        self._put_json("owner.json", {"folder": folder, "generation": generation})

    def openings(self) -> dict[str, list[dict[str, Any]]]:
        """Return the openings of test that were left here, by run folder."""
        return {
            match[1]: self._json(entry.path)
            for entry in self._listed(self._root)
            if (match := _OPENINGS.fullmatch(entry.base_name))
        }

    def put_openings(self, folder: str, openings: list[dict[str, Any]]) -> None:
        """Leave the openings of test that a run folder knows."""
        self._put_json(f"openings-{folder}.json", openings)

    def _json(self, path: str) -> Any:
        with self._files.open_input_stream(path) as source:
            return json.loads(source.read())

    def _put_json(self, name: str, content: object) -> None:
        self._files.create_dir(self._root)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, name)
            path.write_text(json.dumps(content))
            self._put(path, f"{self._root}/{name}")

    def _epochs(self, trial: str) -> list[int]:
        found = (_EPOCH.fullmatch(entry.base_name) for entry in self._listed(trial))
        return sorted(int(match[1]) for match in found if match)

    def _listed(self, folder: str) -> list[FileInfo]:
        selector = FileSelector(folder, allow_not_found=True)
        return list(self._files.get_file_info(selector))

    def _exists(self, path: str) -> bool:
        return bool(self._files.get_file_info(path).type != FileType.NotFound)

    def _put(self, path: Path, name: str) -> None:
        # Under another name first: a half-written file must not look like a whole one.
        with path.open("rb") as source, self._files.open_output_stream(f"{name}.part") as sink:
            while block := source.read(2**20):
                sink.write(block)
        self._files.move(f"{name}.part", name)

    def _copy(self, name: str, path: Path) -> None:
        with self._files.open_input_stream(name) as source:
            durable.copy(source.read, path)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def plain(error: Exception) -> str:
    """Return an error's message on one line, at most 300 characters long."""
    return " ".join(str(error).split())[:300]
