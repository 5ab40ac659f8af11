"""The origin of a result: versions, code, machine and commit."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from samtune import __version__
from samtune.record.rows import digest


def versions() -> dict[str, str]:
    """Return the versions that a run's results may depend on."""
    found = {name: version(name) for name in ("torch", "ray", "optuna")}
    return {"samtune": __version__, **found}


def code_hashes(trainables: Iterable[str], methods: Iterable[str] = ()) -> dict[str, str]:
    """Return SHA-256 digests of samtune's training code and of the user's own code.

    A user's module is hashed without the modules that it imports.

    Args:
        trainables: References of trainables.
        methods: Methods of search; those that are paths name samplers of the user's.
    """
    from samtune.space.sampler import own_sampler
    from samtune.space.trainable import full_reference, resolve

    home = Path(__file__).parents[2]
    ours = [*home.glob("samtune/optimizers/*.py"), *home.glob("trainables/**/*.py")]
    found = {"code of samtune": _sha256(ours)}
    for trainable in trainables:
        module = full_reference(trainable).partition(":")[0]
        found |= {f"code of {file}": _sha256([Path(file)]) for file in _files(resolve(trainable))}
        if module.partition(".")[0] == "trainables":
            continue
        found |= _module(module)
    for method in methods:
        if ":" in method:
            own_sampler(method)
            found |= _module(method.partition(":")[0])
    return found


def _module(name: str) -> dict[str, str]:
    """Return the digest of an imported module, if it is a file."""
    file = getattr(sys.modules[name], "__file__", None)
    return {f"code of {name}": _sha256([Path(file)])} if file else {}


def _files(trainable: Any) -> Sequence[str]:
    """Return the files that a trainable declares as its code, such as a program's."""
    return getattr(trainable, "files", ())


def _sha256(files: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for file in sorted(files):
        found.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def hostname_hash() -> str:
    """Return a digest of this machine's name, which identifies it without showing the name."""
    return digest(socket.gethostname())


def git_commit() -> str | None:
    """Return the commit of samtune's own code; None where samtune is not a git checkout."""
    home = Path(__file__).parents[2]
    # An installed samtune may lie inside a checkout of the user's, which says nothing about it.
    if not (home / ".git").exists():
        return None
    command = ["git", "-C", str(home), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
