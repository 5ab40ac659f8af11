"""What `--ship-code` sends to a cluster on which samtune is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from samtune.record.folder import RunError
from samtune.space.search_space import resolve


def modules(trainables: Iterable[str]) -> list[str]:
    """Paths of samtune, of the trainables beside it, and of each user's own package or module.

    The packages that these import (torch, ray, optuna, ...) must be there: they are not sent.
    Raises RunError (exit code 2) for a trainable that lies in no package or file.
    """
    ours = Path(__file__).parents[1]
    paths = [ours, ours.with_name("trainables")]
    for trainable in trainables:
        name = trainable.partition(":")[0].partition(".")[0]
        if name in {path.name for path in paths}:
            continue
        resolve(trainable)
        place = getattr(sys.modules[name], "__file__", None)
        if place is None:
            raise RunError(
                f"--ship-code cannot send {name!r}, which is a folder without __init__.py; "
                "add one, or install it on the cluster",
                exit_code=2,
            )
        path = Path(place)
        paths.append(path.parent if path.name == "__init__.py" else path)
    return [str(path) for path in dict.fromkeys(paths)]
