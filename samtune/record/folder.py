"""The folder of a run: its name, its place among the others, and the lock of its only writer."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from samtune import durable
from samtune.errors import SamtuneError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MOUNTS = Path("/proc/mounts")
# File systems, as the kernel names them, that several machines may write at a time.
_SHARED = re.compile(
    r"(fuse\.)?(9p|afs|beegfs|ceph(-fuse)?|cifs|davfs|gcsfuse|gfs2|glusterfs|gpfs|juicefs|lustre|"
    r"ncpfs|nfs4?|ocfs2|orangefs|panfs|pvfs2|rclone|s3fs|smb[23]?|smbfs|sshfs|wekafs)"
)


class RunError(SamtuneError):
    """A run that cannot be created, found or written."""


def check_name(name: str) -> str:
    """Returns a run's name if it is one, else raises RunError (exit code 2)."""
    if not NAME.fullmatch(name) or ".." in name:
        raise RunError(
            f"{name!r} is no name for a run: 1 to 64 of a-z 0-9 . _ -, a letter or digit first",
            exit_code=2,
        )
    return name


def refuse_taken(runs: Path, name: str) -> None:
    """Raise RunError if `name` is no name (exit code 2) or already a run's (exit code 4)."""
    if os.path.lexists(runs.absolute() / check_name(name)):
        raise taken(runs, name)


def taken(runs: Path, name: str) -> RunError:
    """Return the error for a name that a run or another folder has (exit code 4)."""
    folder = runs.absolute() / name
    hint = (
        f"or look at it with `samtune status {name}`, go on with it with `samtune resume {name}`"
        if (folder / "sweep.db").is_file()
        else "or remove it: it holds no run"
    )
    return RunError(
        f"the name {name!r} is taken: {folder} exists; choose another --name, {hint}", exit_code=4
    )


def placed(made: Path, folder: Path, *, named: bool) -> Path:
    """Moves the folder `made` to `folder`, or unless it is `named` so by the user to the first
    free of `folder-2`, `folder-3`, ...; returns where it is.

    Whole or absent. Raises RunError (exit code 4) where a name is taken that has to be.
    """
    wanted, count = folder.name, 1
    while True:
        try:
            durable.rename(made, folder)
            return folder
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
            if named:
                refuse_taken(folder.parent, wanted)
            count += 1
            folder = folder.with_name(f"{wanted}-{count}")


def found(runs: Path, name: str) -> Path:
    """The folder of the run `name`. Raises RunError (exit code 2) when there is none."""
    folder = runs.absolute() / check_name(name)
    if not (folder / "sweep.db").is_file():
        known = sorted(path.parent.name for path in runs.glob("[!.]*/sweep.db"))
        hint = f"runs in {runs}: {', '.join(known)}" if known else f"{runs} holds no runs"
        raise RunError(f"no run {name!r}; {hint}", exit_code=2)
    if any((folder / part).is_symlink() for part in ("", ".lock", "sweep.db", "checkpoints")):
        raise RunError(
            f"{folder}, or a part of it, is a symbolic link, and a run is written only where "
            "it stands; name the folder that holds it with --runs",
            exit_code=2,
        )
    return folder


def network_filesystem(folder: Path) -> str | None:
    """The kind of the network file system on which `folder` is or would be; None for a local one.

    Asks the kernel's list of mounts (proc(5)); where there is none, every folder is local.
    """
    place, kind, deepest = folder.resolve(), "", -1
    try:
        mounts = os.fsdecode(MOUNTS.read_bytes()).splitlines()
    except OSError:
        return None
    for line in mounts:
        _, escaped, found, *_ = line.split(" ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), escaped))
        # The last of equals lies on top.
        if place.is_relative_to(point) and len(point.parts) >= deepest:
            kind, deepest = found, len(point.parts)
    return kind if _SHARED.fullmatch(kind) else None


def is_locked(folder: Path) -> bool:
    """Whether a process is writing the run in `folder`."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        # Where no lock can be made, no sweep can write.
        return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run in `folder` for writing. Raises RunError (exit code 4) while another does."""
    lock = FileLock(folder / ".lock")
    try:
        # Longer than a look by `is_locked` takes.
        lock.acquire(timeout=0.5)
    except Timeout:
        raise RunError(
            f"run {folder.name!r} is being written by another process; "
            f"`samtune status {folder.name}` shows how far it is",
            exit_code=4,
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def alone_in(folder: str | None) -> Iterator[None]:
    """Waits until the last worker of the trial is gone: its sweep may have been killed just now.

    Raises Timeout after a minute; the trial is tried again then.
    """
    if folder is None:
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    with FileLock(Path(folder, ".lock"), timeout=60):
        yield


def plain(error: BaseException) -> str:
    """What the system calls it, without number and path."""
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
