"""Delivery of a space's code to workers: by path on this machine, by upload to other nodes."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from ray import cloudpickle

from samtune.record.folder import RunError
from samtune.space.by_value import is_by_value, keep
from samtune.space.trainable import resolve


def import_path() -> list[str]:
    """Return the folders from which this process imports, the current folder last.

    A worker appends them to its own, so it finds what the command found. Samtune's own packages
    come before the current folder: one of the same name there is never imported in their place.
    """
    here = os.getcwd()
    folders = dict.fromkeys(os.path.abspath(folder) for folder in sys.path)
    return [*(folder for folder in folders if folder != here), here]


def by_value(reference: str) -> bytes | None:
    """Return the pickled trainable for workers that cannot import it; None for all others."""
    return _pickled(resolve(reference)) if is_by_value(reference) else None


@lru_cache(maxsize=8)
def _pickled(function: Any) -> bytes:
    # Its referenced objects may be large, and each trial sends them.
    return bytes(cloudpickle.dumps(function))


def receive(reference: str, pickled: bytes | None) -> None:
    """Keep the trainable that `by_value` returned in the driver's process."""
    if pickled is not None:
        keep(reference, cloudpickle.loads(pickled))


def modules(references: Iterable[str]) -> list[str]:
    """Return the paths to upload: samtune, its trainables, and the user's own code.

    The user's own code is the module or package of each reference, and what was imported from
    the same folder. The installed packages that it imports (torch, ray, ...) are not uploaded.

    Args:
        references: `module` or `module:name`, each imported already.

    Raises:
        RunError: a reference lies in no package or file (exit code 2).
    """
    ours = Path(__file__).parents[1]
    paths = [ours, ours.with_name("trainables")]
    for reference in references:
        name = reference.partition(":")[0].partition(".")[0]
        if name in {path.name for path in paths}:
            continue
        place = _place(name)
        if place is None:
            raise RunError(
                f"--ship-code cannot send {name!r}, which is a folder without __init__.py; "
                "add one, or install it on the cluster",
                exit_code=2,
            )
        paths.append(place)
        if place.parent not in _installed():
            # A copy of the list: looking at a module may import another.
            others = [_place(other) for other in list(sys.modules) if "." not in other]
            paths += [other for other in others if other and other.parent == place.parent]
    return [str(path) for path in dict.fromkeys(paths)]


def _place(name: str) -> Path | None:
    """Return the file or the folder of a top-level module, None where it has neither."""
    file = getattr(sys.modules[name], "__file__", None)
    if file is None or name == "__main__":
        return None
    path = Path(file)
    return path.parent if path.name == "__init__.py" else path


def _installed() -> set[Path]:
    """Return the folders of installed packages and of samtune itself, which hold others' code."""
    folders = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib")}
    return {*folders, Path(__file__).parents[2]}
