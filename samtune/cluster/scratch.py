"""The temporary folder of a Ray of our own, removed however the command ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

# The path of a socket may have 107 characters, and Ray adds up to 93 to the folder's parent.
_LONGEST = 14


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder that is removed after the block, or by the next command."""
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) <= _LONGEST else "/tmp"
    _remove_abandoned(Path(parent))
    with (
        tempfile.TemporaryDirectory(
            prefix=f"samtune-{os.getpid()}-", dir=parent, ignore_cleanup_errors=True
        ) as folder,
        FileLock(Path(folder, "lock")),
    ):
        yield Path(folder)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of commands that were killed."""
    for lock in parent.glob("samtune-*/lock"):
        # A live command holds its lock; another user's cannot be opened.
        with contextlib.suppress(Timeout, OSError), FileLock(lock, timeout=0):
            shutil.rmtree(lock.parent, ignore_errors=True)
