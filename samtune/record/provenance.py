"""Where a result comes from: versions, code, machine and commit."""

from __future__ import annotations

import hashlib
import socket
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from samtune import __version__
from samtune.record.rows import digest


def versions() -> dict[str, str]:
    """The versions that a run's results may depend on."""
    found = {name: version(name) for name in ("torch", "ray", "optuna")}
    return {"samtune": __version__, **found}


def code_hashes(trainables: Iterable[str]) -> dict[str, str]:
    """SHA-256 of samtune's code that trains, and of the module of each trainable of a user's own.

    What such a module imports is not looked at.
    """
    from samtune.space.trainable import full_reference, resolve

    home = Path(__file__).parents[2]
    ours = [*home.glob("samtune/optimizers/*.py"), *home.glob("trainables/**/*.py")]
    found = {"code of samtune": _sha256(ours)}
    for trainable in trainables:
        module = full_reference(trainable).partition(":")[0]
        if module.partition(".")[0] == "trainables":
            continue
        resolve(trainable)
        if file := getattr(sys.modules[module], "__file__", None):
            found[f"code of {module}"] = _sha256([Path(file)])
    return found


def _sha256(files: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for file in sorted(files):
        found.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


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
