"""Functions that rename, remove and annotate a run.

The commands `rm`, `mv` and `note` call `remove`, `rename` and `add_note`; `ls` shows
`samtune.views.runs.runs_of`. Tables hold the run's name, so `mv` writes them again after `rename`.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from samtune import durable
from samtune.record import folder as run_folder
from samtune.record.folder import RunError

_NOTES = "notes.txt"


def remove(runs: Path, name: str) -> None:
    """Remove a run and all its files.

    Raises:
        RunError: there is no such run (exit code 2), a process writes it (4), or the folder cannot
            be removed (5).
    """
    folder = run_folder.found(runs, name)
    with run_folder.locked(folder):
        aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        try:
            # A removal that is cut short leaves no half run under the name.
            durable.rename(folder, aside)
            shutil.rmtree(aside)
        except OSError as error:
            raise RunError(
                f"cannot remove {folder}: {run_folder.plain(error)}", exit_code=5
            ) from error


def rename(runs: Path, name: str, new: str) -> Path:
    """Give a run another name, and return its new folder.

    Raises:
        RunError: there is no such run, or `new` is no name (exit code 2); `new` is taken, or a
            process writes the run (4); the folder cannot be renamed (5).
    """
    folder = run_folder.found(runs, name)
    run_folder.refuse_taken(folder.parent, new)
    target = folder.with_name(new)
    with run_folder.locked(folder):
        try:
            durable.rename(folder, target)
        except OSError as error:
            raise RunError(
                f"cannot rename {folder} to {new}: {run_folder.plain(error)}", exit_code=5
            ) from error
    return target


def add_note(runs: Path, name: str, text: str) -> None:
    """Add a line to a run's notes, of a running one too. An empty text removes all its notes.

    Raises:
        RunError: there is no such run (exit code 2), or its folder cannot be written (5).
    """
    folder = run_folder.found(runs, name)
    line = " ".join(text.split())
    try:
        if line:
            durable.append(folder / _NOTES, f"{line}\n".encode())
        else:
            (folder / _NOTES).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {run_folder.plain(error)}", exit_code=5) from error


def notes(folder: Path) -> list[str]:
    """Return the notes of the run in a folder, the oldest first."""
    try:
        text = (folder / _NOTES).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()
