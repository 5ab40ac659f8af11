"""The origin of a benchmark's figures: device, versions, load, commit and command."""

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
    """Return the description of a run for its results file; a missing package is None.

    `device` is the CPU unless the caller names another one. The load is that of the last minute,
    so a benchmark calls this before it causes load itself.
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
    """Return the checkout's commit and whether its code has changed since, or None without one."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True).stdout

    # The results do not count: the benchmarks write them again one after another.
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
