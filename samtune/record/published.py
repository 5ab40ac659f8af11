"""A run as a tabular benchmark: a folder of tables and spaces, and a list of their digests."""

from __future__ import annotations

import hashlib
from pathlib import Path

from samtune import durable
from samtune.record.folder import RunError

SUMS = "SHA256SUMS"


def refuse_filled(folder: Path) -> None:
    """Raise RunError (exit code 5) for a path that is neither free nor an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} is not empty; choose a new folder", exit_code=5)


def write_sums(folder: Path) -> None:
    """Write the SHA-256 of every file, in the form of `sha256sum`."""
    lines = [f"{_sha256(path)}  {path.relative_to(folder)}\n" for path in _files(folder)]
    durable.write(folder / SUMS, "".join(lines).encode())


def verify(folder: Path) -> None:
    """Read every file that the list names.

    Raises:
        RunError: there is no list, or a file is missing or has changed (exit code 5).
    """
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except OSError:
        raise RunError(
            f"{folder} has no {SUMS}, so it is no published run; "
            "`samtune publish RUN DIR` writes one",
            exit_code=5,
        ) from None
    known = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = {str(path.relative_to(folder)): path for path in _files(folder)}
    wrong = sorted(name for name, path in found.items() if known.get(name) != _sha256(path))
    lost = sorted(known.keys() - found.keys())
    if wrong or lost:
        each = [
            *(f"{name} has changed" for name in wrong),
            *(f"{name} is missing" for name in lost),
        ]
        raise RunError(f"{folder} is not as it was published: {', '.join(each)}", exit_code=5)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SUMS)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
