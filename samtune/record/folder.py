"""The folder of a run: its name, its place among other runs, and the lock of its one writer."""

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
# File systems, by the kernel's names, that several machines can write at the same time.
_SHARED = re.compile(
    r"(fuse\.)?(9p|afs|beegfs|ceph(-fuse)?|cifs|davfs|gcsfuse|gfs2|glusterfs|gpfs|juicefs|lustre|"
    r"ncpfs|nfs4?|ocfs2|orangefs|panfs|pvfs2|rclone|s3fs|smb[23]?|smbfs|sshfs|wekafs)"
)


class RunError(SamtuneError):
    """A run that cannot be created, found or written."""


def check_name(name: str) -> str:
    """Return a run's name. Raise RunError (exit code 2) for text that is no name."""
    if not NAME.fullmatch(name) or ".." in name:
        raise RunError(
            f"{name!r} is no name for a run: 1 to 64 of a-z 0-9 . _ -, a letter or digit first",
            exit_code=2,
        )
    return name


def place(runs: Path, word: str) -> Path:
    """Return the folder of the run that a word names: by its name, or by its folder.

    Raises:
        RunError: the word is no name for a run, and no folder of one (exit code 2).
    """
    if os.sep not in word or "\0" in word:
        return runs.absolute() / check_name(word)
    folder = Path(word).absolute()
    if not (folder / "sweep.db").is_file():
        beside = ", ".join(names(folder.parent)) or "none"
        raise RunError(
            f"{word!r} is no name for a run, and no folder of one; runs in {folder.parent}: "
            f"{beside}",
            exit_code=2,
        )
    return folder


def refuse_taken(runs: Path, name: str) -> None:
    """Raise RunError if `name` is no name (exit code 2) or is taken (exit code 4)."""
    if os.path.lexists(runs.absolute() / check_name(name)):
        raise taken(runs, name)


def taken(runs: Path, name: str) -> RunError:
    """Return the error for a name that a run or another folder has (exit code 4)."""
    folder = runs.absolute() / name
    hint = (
        f"`samtune status {name}` shows that run and `samtune resume {name}` goes on with it"
        if (folder / "sweep.db").is_file()
        else "or remove the folder: it holds no run"
    )
    return RunError(
        f"the name {name!r} is taken: {folder} exists; choose another --name; {hint}", exit_code=4
    )


def placed(made: Path, folder: Path, *, named: bool) -> Path:
    """Move a new folder to its place, and return where it is.

    Args:
        made: the folder, complete.
        folder: where it belongs.
        named: True if the user chose that name. Otherwise a taken name is replaced by the first
            free one of `folder-2`, `folder-3`, ...

    Raises:
        RunError: the name that the user chose is taken (exit code 4).
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


def names(runs: Path) -> list[str]:
    """Return the names of the runs in a folder, in alphabetical order."""
    return sorted(path.parent.name for path in runs.glob("[!.]*/sweep.db"))


def found(runs: Path, name: str) -> Path:
    """Return the folder of the run `name`. Raise RunError (exit code 2) when there is none.

    Args:
        runs: the folder that holds the runs.
        name: name of the run, or its folder as `runs/first`.
    """
    folder = place(runs, name)
    if not (folder / "sweep.db").is_file():
        known = names(runs)
        hint = f"runs in {runs}: {', '.join(known)}" if known else f"{runs} holds no runs"
        raise RunError(f"no run {name!r}; {hint}", exit_code=2)
    if any((folder / part).is_symlink() for part in ("", ".lock", "sweep.db", "checkpoints")):
        raise RunError(
            f"{folder}, or a part of it, is a symbolic link, and a run is only written in its "
            "real place; name the folder that holds it with --runs",
            exit_code=2,
        )
    return folder


def network_filesystem(folder: Path) -> str | None:
    """Return the kind of network file system that a folder is or would be on; None if local.

    The kernel lists the mounts in proc(5). Without that list every folder counts as local.
    """
    place, kind, deepest = folder.resolve(), "", -1
    try:
        mounts = os.fsdecode(MOUNTS.read_bytes()).splitlines()
    except OSError:
        return None
    for line in mounts:
        _, escaped, found, *_ = line.split(" ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), escaped))
        # Of two mounts on one point, the later one is visible.
        if place.is_relative_to(point) and len(point.parts) >= deepest:
            kind, deepest = found, len(point.parts)
    return kind if _SHARED.fullmatch(kind) else None


def is_locked(folder: Path) -> bool:
    """Return True while a process writes the run in `folder`."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        # A folder that takes no lock file takes no sweep either.
        return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run in `folder` for writing during the block.

    Raises:
        RunError: another process holds it (exit code 4).
    """
    lock = FileLock(folder / ".lock")
    try:
        # `is_locked` of another process holds the lock for a moment.
        lock.acquire(timeout=0.5)
    except Timeout:
        raise RunError(
            f"run {folder.name!r} is being written by another process; "
            f"`samtune status {folder.name}` shows its progress, and "
            f"`samtune stop {folder.name}` stops it",
            exit_code=4,
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def alone_in(folder: str | None) -> Iterator[None]:
    """Hold a trial's folder during the block; None holds nothing.

    The trial's last worker may still be ending, because its sweep was killed just now.

    Raises:
        Timeout: that worker still holds the folder after a minute.
    """
    if folder is None:
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    with FileLock(Path(folder, ".lock"), timeout=60):
        yield


def plain(error: BaseException) -> str:
    """Return an error in the system's words, without number and path."""
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
