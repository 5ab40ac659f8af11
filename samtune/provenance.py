"""Where a result comes from: versions, machine and commit."""

from __future__ import annotations

import socket
from importlib.metadata import version
from pathlib import Path

from samtune import __version__
from samtune.rows import digest


def versions() -> dict[str, str]:
    """The versions that a run's results may depend on."""
    found = {name: version(name) for name in ("torch", "ray", "optuna")}
    return {"samtune": __version__, **found}


def hostname_hash() -> str:
    """Tells machines apart without naming them."""
    return digest(socket.gethostname())


def git_commit() -> str | None:
    """The commit of the folder in which the user stands, if that is a git checkout."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        head = folder / ".git" / "HEAD"
        if head.is_file():
            content = head.read_text().strip()
            if not content.startswith("ref: "):
                return content
            ref = folder / ".git" / content.removeprefix("ref: ")
            return ref.read_text().strip() if ref.is_file() else None
    return None
