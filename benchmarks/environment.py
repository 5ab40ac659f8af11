"""Where a benchmark's figures come from: device, versions, load, commit and command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any


def environment(*packages: str, device: str | None = None) -> dict[str, Any]:
    """What each results file says of its run; a package that is not installed is None.

    `device` is the CPU unless the caller names another one. The load is that of the last minute,
    so a benchmark asks before its own.
    """
    return {
        "device": device or f"CPU, {os.cpu_count()} cores",
        "system": f"{platform.system()}, {platform.machine()}",
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages}
        | {"sqlite": sqlite3.sqlite_version},
        "commit": _commit(),
        "command": " ".join([*_program(), *sys.argv[1:]]),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, and whether its code has changed since; None where there is none."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True).stdout

    # The results are being written anew, one benchmark after the other.
    of = (
        ".",
        ":(exclude)results",
        "../samtune",
        "../trainables",
        "../search_spaces",
        "../analysis",
    )
    changed = " + changes" if git("status", "--porcelain", *of) else ""
    return git("rev-parse", "HEAD").strip() + changed or None


def _program() -> list[str]:
    spec = sys.modules["__main__"].__spec__
    return [sys.argv[0]] if spec is None else ["python", "-m", spec.name]
